// Python bindings. Tensors arrive as addresses, sizes and strides: DLPack would cost 3 us per
// tensor, as much as the whole draw of a row, and would need as little of torch. The wrappers
// beside each op (kernels/*.py) are the only callers and check device, dtype, shape and layout
// first.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "advance_slots.h"
#include "decode_attention.h"
#include "embedding.h"
#include "gelu.h"
#include "instruction_set_choice.h"
#include "layer_norm.h"
#include "packed_linear.h"
#include "recording.h"
#include "rms_norm.h"
#include "rotary_to_cache.h"
#include "sample_contrastive.h"
#include "swiglu.h"
#include "tree_attention.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Address = uintptr_t;  // of a tensor's first number; 0 if the tensor is not given

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

cdgen::Dtype dtype_named(const std::string& name) {
    if (name == "float32") return cdgen::Dtype::f32;
    if (name == "bfloat16") return cdgen::Dtype::bf16;
    if (name == "float16") return cdgen::Dtype::fp16;
    if (name == "int8") return cdgen::Dtype::i8;
    throw std::invalid_argument("dtype: expected float32, bfloat16, float16 or int8, got " + name);
}

// For the ops of a decoder layer, which a recording may repeat.
#define CDGEN_CALL(kernel, args)            \
    const nb::gil_scoped_release release{}; \
    cdgen::Recording::call(args, [](const auto& given) { CDGEN_RUN(kernel, given); })

void sample_contrastive(const cdgen::Matrix& good, int64_t rows, int64_t vocab_size,
                        const cdgen::Matrix* bad, const cdgen::Head* head,
                        const cdgen::Params& params, const cdgen::Noise& noise,
                        const cdgen::Draws& out, int threads) {
    const cdgen::SampleArgs args{.good = good,
                                 .rows = rows,
                                 .vocab_size = vocab_size,
                                 .bad = bad ? *bad : cdgen::Matrix{},
                                 .head = head ? *head : cdgen::Head{},
                                 .params = params,
                                 .noise = noise,
                                 .out = out,
                                 .threads = threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(sample_contrastive, args);
}

void decode_attention(Address query, const cdgen::KvCache& cache, Address lengths, Address out,
                      const std::string& dtype, const cdgen::CacheShape& shape, int64_t sequences,
                      float scale, const cdgen::AttentionDropout* dropout, int threads) {
    const cdgen::AttentionArgs args{.query = at<const void>(query),
                                    .cache = cache,
                                    .lengths = at<const int64_t>(lengths),
                                    .out = at<void>(out),
                                    .dtype = dtype_named(dtype),
                                    .shape = shape,
                                    .sequences = sequences,
                                    .scale = scale,
                                    .dropout = dropout ? *dropout : cdgen::AttentionDropout{},
                                    .threads = threads};
    CDGEN_CALL(decode_attention, args);
}

void rotary_to_cache(Address qkv, Address cos, Address sin, Address positions, Address query_norm,
                     Address key_norm, Address query, const std::string& dtype,
                     const cdgen::KvCache& cache, const cdgen::CacheShape& shape, int64_t sequences,
                     int64_t models, float eps, int threads) {
    const cdgen::RotaryArgs args{.qkv = at<const void>(qkv),
                                 .cos = at<const float>(cos),
                                 .sin = at<const float>(sin),
                                 .positions = at<const int64_t>(positions),
                                 .query_norm = at<const void>(query_norm),
                                 .key_norm = at<const void>(key_norm),
                                 .query = at<void>(query),
                                 .dtype = dtype_named(dtype),
                                 .cache = cache,
                                 .shape = shape,
                                 .sequences = sequences,
                                 .rows_per_model = shape.rows / models,
                                 .eps = eps,
                                 .threads = threads};
    CDGEN_CALL(rotary_to_cache, args);
}

void rms_norm(Address x, Address delta, Address weight, Address out, const std::string& dtype,
              int64_t rows, int64_t models, int64_t hidden_size, float eps, int threads) {
    const cdgen::RmsNormArgs args{.x = at<float>(x),
                                  .delta = at<const void>(delta),
                                  .weight = at<const void>(weight),
                                  .out = at<void>(out),
                                  .dtype = dtype_named(dtype),
                                  .rows = rows,
                                  .rows_per_model = rows / models,
                                  .hidden_size = hidden_size,
                                  .eps = eps,
                                  .threads = threads};
    CDGEN_CALL(rms_norm, args);
}

void layer_norm(Address x, Address delta, Address weight, Address bias, Address out,
                const std::string& dtype, int64_t rows, int64_t models, int64_t hidden_size,
                float eps, int threads) {
    const cdgen::LayerNormArgs args{.x = at<float>(x),
                                    .delta = at<const void>(delta),
                                    .weight = at<const void>(weight),
                                    .bias = at<const void>(bias),
                                    .out = at<void>(out),
                                    .dtype = dtype_named(dtype),
                                    .rows = rows,
                                    .rows_per_model = rows / models,
                                    .hidden_size = hidden_size,
                                    .eps = eps,
                                    .threads = threads};
    CDGEN_CALL(layer_norm, args);
}

void swiglu(Address gate_up, Address out, const std::string& dtype, int64_t rows,
            int64_t intermediate_size, int threads) {
    const cdgen::SwigluArgs args{.gate_up = at<const void>(gate_up),
                                 .out = at<void>(out),
                                 .dtype = dtype_named(dtype),
                                 .rows = rows,
                                 .intermediate_size = intermediate_size,
                                 .threads = threads};
    CDGEN_CALL(swiglu, args);
}

void advance_slots(Address tokens, Address positions, Address alive, Address prompt_tokens,
                   Address prompts, Address drawn, Address status, Address plausible, Address stops,
                   Address record, int64_t slots, int64_t prompt_capacity, int64_t stop_count,
                   int64_t max_new_tokens) {
    const cdgen::SlotArgs args{.tokens = at<int64_t>(tokens),
                               .positions = at<int64_t>(positions),
                               .alive = at<bool>(alive),
                               .prompt_tokens = at<const int64_t>(prompt_tokens),
                               .prompts = at<const int64_t>(prompts),
                               .drawn = at<const int64_t>(drawn),
                               .status = at<const uint8_t>(status),
                               .plausible = at<const int32_t>(plausible),
                               .stops = at<const int64_t>(stops),
                               .record = at<int32_t>(record),
                               .slots = slots,
                               .prompt_capacity = prompt_capacity,
                               .stop_count = stop_count,
                               .max_new_tokens = max_new_tokens};
    nb::gil_scoped_release release;
    CDGEN_RUN(advance_slots, args);
}

void gelu(Address x, Address out, const std::string& dtype, int64_t count, bool tanh, int threads) {
    const cdgen::GeluArgs args{.x = at<const void>(x),
                               .out = at<void>(out),
                               .dtype = dtype_named(dtype),
                               .count = count,
                               .tanh = tanh,
                               .threads = threads};
    CDGEN_CALL(gelu, args);
}

void packed_linear(Address x, Address panels, Address bias, Address addend, Address out,
                   const std::string& dtype, const std::string& out_dtype, int64_t rows,
                   int64_t models, int64_t inputs, int64_t outputs, int threads) {
    const cdgen::LinearArgs args{.x = at<const void>(x),
                                 .panels = at<const void>(panels),
                                 .bias = at<const float>(bias),
                                 .addend = at<const void>(addend),
                                 .out = at<void>(out),
                                 .dtype = dtype_named(dtype),
                                 .out_dtype = dtype_named(out_dtype),
                                 .rows = rows,
                                 .rows_per_model = rows / models,
                                 .inputs = inputs,
                                 .outputs = outputs,
                                 .threads = threads};
    CDGEN_CALL(packed_linear, args);
}

struct CopyArgs {
    const void* from;
    void* to;
    size_t bytes;
    int threads;
};

void copy_bytes(Address from, Address to, size_t bytes) {
    const CopyArgs args{at<const void>(from), at<void>(to), bytes, 1};
    cdgen::Recording::call(args, [](const CopyArgs& a) { std::memcpy(a.to, a.from, a.bytes); });
}

// Raises IndexError unless every number is in [0, end).
void require_below(const char* name, const int64_t* numbers, int64_t count, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
        if (numbers[i] < 0 || numbers[i] >= end)
            throw nb::index_error((std::string(name) + ": expected numbers from 0 to " +
                                   std::to_string(end - 1) + ", got " + std::to_string(numbers[i]))
                                      .c_str());
}

void embedding(Address tokens, Address positions, Address models, Address table,
               Address position_table, Address out, const std::string& dtype, int64_t sequences,
               int64_t blocks, int64_t vocab_size, int64_t learned_positions, int64_t hidden_size) {
    const cdgen::EmbeddingArgs args{.tokens = at<const int64_t>(tokens),
                                    .positions = at<const int64_t>(positions),
                                    .models = at<const int64_t>(models),
                                    .table = at<const void>(table),
                                    .position_table = at<const void>(position_table),
                                    .out = at<float>(out),
                                    .dtype = dtype_named(dtype),
                                    .sequences = sequences,
                                    .blocks = blocks,
                                    .vocab_size = vocab_size,
                                    .learned_positions = learned_positions,
                                    .hidden_size = hidden_size};
    require_below("tokens", args.tokens, sequences, vocab_size);
    if (args.position_table)
        require_below("positions", args.positions, sequences, learned_positions);
    nb::gil_scoped_release release;
    CDGEN_RUN(embedding, args);
}

int64_t tree_attention(const cdgen::NodeHeads& query, const cdgen::NodeHeads& keys,
                       const cdgen::NodeHeads& values, Address parents, Address out, int64_t nodes,
                       int64_t head_dim, float scale, int threads) {
    const cdgen::TreeArgs args{.query = query,
                               .keys = keys,
                               .values = values,
                               .parents = at<const int64_t>(parents),
                               .out = at<float>(out),
                               .nodes = nodes,
                               .head_dim = head_dim,
                               .scale = scale,
                               .threads = threads};
    nb::gil_scoped_release release;
    return CDGEN_RUN(tree_attention, args);
}

// The records that calls are made of; addresses become typed pointers here.
void bind_sampling_records(nb::module_& m) {
    using cdgen::Draws, cdgen::Head, cdgen::Matrix, cdgen::Noise, cdgen::Params;
    nb::class_<Params>(m, "Params")
        .def(nb::init<float, float, float, float, float, int64_t, double>());
    nb::class_<Matrix>(m, "Matrix")
        .def("__init__", [](Matrix* self, Address data, int64_t stride, const std::string& dtype) {
            new (self) Matrix{at<const void>(data), stride, dtype_named(dtype)};
        });
    nb::class_<Head>(m, "Head").def(
        "__init__", [](Head* self, const Matrix& hidden, const Matrix& weight, Address bias,
                       int64_t hidden_size) {
            new (self) Head{hidden, weight, at<const void>(bias), hidden_size};
        });
    nb::class_<Noise>(m, "Noise")
        .def("__init__", [](Noise* self, uint64_t seed, Address ids, Address positions) {
            new (self) Noise{seed, at<const int64_t>(ids), at<const int64_t>(positions)};
        });
    nb::class_<Draws>(m, "Draws")
        .def("__init__",
             [](Draws* self, Address tokens, Address status, Address plausible, Address kept) {
                 new (self) Draws{at<int64_t>(tokens), at<uint8_t>(status), at<int32_t>(plausible),
                                  at<int32_t>(kept)};
             });
}

void bind_attention_records(nb::module_& m) {
    using cdgen::AttentionDropout, cdgen::CacheShape, cdgen::KvCache, cdgen::NodeHeads;
    nb::class_<CacheShape>(m, "CacheShape")
        .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t>());
    nb::class_<KvCache>(m, "KvCache")
        .def("__init__", [](KvCache* self, Address keys, Address values, Address key_scales,
                            Address value_scales, const std::string& stored) {
            new (self) KvCache{at<void>(keys), at<void>(values), at<float>(key_scales),
                               at<float>(value_scales), dtype_named(stored)};
        });
    nb::class_<AttentionDropout>(m, "AttentionDropout")
        .def("__init__", [](AttentionDropout* self, double rate, uint64_t seed, int64_t layer,
                            int64_t first_row, Address sequence_ids) {
            new (self)
                AttentionDropout{rate, seed, layer, first_row, at<const int64_t>(sequence_ids)};
        });
    nb::class_<NodeHeads>(m, "NodeHeads")
        .def("__init__", [](NodeHeads* self, Address data, int64_t node_stride, int64_t head_stride,
                            int64_t heads) {
            new (self) NodeHeads{at<const float>(data), node_stride, head_stride, heads};
        });
}

void bind_recording(nb::module_& m) {
    nb::class_<cdgen::Recording>(m, "Recording")
        .def(nb::init<>())
        .def("begin", &cdgen::Recording::begin)
        .def("end", &cdgen::Recording::end)
        .def("repeat", &cdgen::Recording::repeat, nb::call_guard<nb::gil_scoped_release>())
        .def("repeat_beside", &cdgen::Recording::repeat_beside,
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

NB_MODULE(_cpu, m) {
    // The command line leaves what is alive at its end to the system (cdgen/cli/app.py).
    nb::set_leak_warnings(false);
    m.def("instruction_set", &cdgen::instruction_set);
    m.def("set_instruction_set", &cdgen::set_instruction_set);
    bind_sampling_records(m);
    bind_attention_records(m);
    bind_recording(m);
    m.def("sample_contrastive", &sample_contrastive, "good"_a, "rows"_a, "vocab_size"_a,
          "bad"_a.none(), "head"_a.none(), "params"_a, "noise"_a, "out"_a, "threads"_a);
    m.def("decode_attention", &decode_attention, "query"_a, "cache"_a, "lengths"_a, "out"_a,
          "dtype"_a, "shape"_a, "sequences"_a, "scale"_a, "dropout"_a.none(), "threads"_a);
    m.def("tree_attention", &tree_attention);
    m.def("rms_norm", &rms_norm);
    m.def("rotary_to_cache", &rotary_to_cache);
    m.def("swiglu", &swiglu);
    m.def("layer_norm", &layer_norm);
    m.def("gelu", &gelu);
    m.def("embedding", &embedding);
    m.def("advance_slots", &advance_slots);
    m.def("packed_linear", &packed_linear);
    m.def("copy_bytes", &copy_bytes);
}
