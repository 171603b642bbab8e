// Python bindings. Tensors arrive as addresses, sizes and strides: taking them through DLPack costs
// 3 us each, as much as the whole draw of a row, and needs as little of torch. The wrappers beside
// each op (kernels/*.py) are the only callers and check device, dtype, shape and layout first.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "decode_attention.h"
#include "decoder_ops.h"
#include "gelu.h"
#include "layer_norm.h"
#include "sample_contrastive.h"
#include "tree_attention.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Address = uintptr_t;  // 0: no such tensor

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

bool has_avx2() {
#if defined(CDGEN_HAS_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool use_avx2 = has_avx2();

std::string instruction_set() { return use_avx2 ? "avx2" : "portable"; }

void set_instruction_set(const std::string& name) {
    if (name != "portable" && !(name == "avx2" && has_avx2()))
        throw std::invalid_argument(
            "instruction set: expected 'portable' or, where the processor has it, 'avx2'");
    use_avx2 = name == "avx2";
}

#if defined(CDGEN_HAS_AVX2)
#define CDGEN_RUN(kernel, args) \
    (use_avx2 ? cdgen::avx2::kernel(args) : cdgen::portable::kernel(args))
#else
#define CDGEN_RUN(kernel, args) cdgen::portable::kernel(args)
#endif

cdgen::Dtype dtype_named(const std::string& name) {
    if (name == "float32") return cdgen::Dtype::f32;
    if (name == "bfloat16") return cdgen::Dtype::bf16;
    if (name == "float16") return cdgen::Dtype::fp16;
    throw std::invalid_argument("dtype: expected float32, bfloat16 or float16");
}

struct Params {
    float good_weight, bad_weight, log_alpha, temperature, log_min_p;
    int64_t top_k;
    double top_p;
};

struct Matrix {  // rows of `dtype`, `stride` elements apart
    Address data;
    int64_t stride;
    cdgen::Dtype dtype;
};

void sample_contrastive(const Matrix& good, int64_t rows, int64_t vocab, const Matrix* bad,
                        const Matrix* hidden, const Matrix* head, Address bias, int64_t width,
                        const Params& params, uint64_t seed, Address sequence_ids,
                        Address positions, int threads, Address tokens, Address status,
                        Address plausible, Address kept) {
    cdgen::SampleArgs args{};
    args.good = at<const void>(good.data);
    args.good_stride = good.stride;
    args.good_dtype = good.dtype;
    args.rows = rows;
    args.vocab = vocab;
    if (bad) {
        args.bad = at<const void>(bad->data);
        args.bad_stride = bad->stride;
    }
    if (hidden && head) {
        args.hidden = at<const void>(hidden->data);
        args.hidden_stride = hidden->stride;
        args.head = at<const void>(head->data);
        args.head_stride = head->stride;
        args.head_dtype = head->dtype;
        args.bias = at<const void>(bias);
        args.width = width;
    }
    args.good_weight = params.good_weight;
    args.bad_weight = params.bad_weight;
    args.log_alpha = params.log_alpha;
    args.temperature = params.temperature;
    args.log_min_p = params.log_min_p;
    args.top_k = params.top_k;
    args.top_p = params.top_p;
    args.seed = seed;
    args.sequence_ids = at<const int64_t>(sequence_ids);
    args.positions = at<const int64_t>(positions);
    args.threads = threads;
    args.tokens = at<int64_t>(tokens);
    args.status = at<uint8_t>(status);
    args.plausible = at<int32_t>(plausible);
    args.kept = at<int32_t>(kept);
    nb::gil_scoped_release release;
    CDGEN_RUN(sample_contrastive, args);
}

void decode_attention(Address query, Address keys, Address values, Address lengths, Address out,
                      int64_t rows, int64_t heads, int64_t kv_heads, int64_t capacity,
                      int64_t width, float scale, double rate, uint64_t seed, int64_t layer,
                      Address sequence_ids, int threads) {
    const cdgen::AttentionArgs args{at<const float>(query),
                                    at<const float>(keys),
                                    at<const float>(values),
                                    at<const int64_t>(lengths),
                                    at<float>(out),
                                    rows,
                                    heads,
                                    kv_heads,
                                    capacity,
                                    width,
                                    scale,
                                    rate,
                                    seed,
                                    layer,
                                    at<const int64_t>(sequence_ids),
                                    threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(decode_attention, args);
}

void rms_norm(Address x, Address delta, Address weight, Address out, int64_t rows, int64_t width,
              float eps, int threads) {
    const cdgen::NormArgs args{at<float>(x),
                               at<const float>(delta),
                               at<const float>(weight),
                               at<float>(out),
                               rows,
                               width,
                               eps,
                               threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(rms_norm, args);
}

void rotary_to_cache(Address qkv, Address cos, Address sin, Address positions, Address query_norm,
                     Address key_norm, float eps, Address query, Address keys, Address values,
                     int64_t rows, int64_t heads, int64_t kv_heads, int64_t capacity, int64_t width,
                     int threads) {
    const cdgen::RotaryArgs args{at<const float>(qkv),
                                 at<const float>(cos),
                                 at<const float>(sin),
                                 at<const int64_t>(positions),
                                 at<const float>(query_norm),
                                 at<const float>(key_norm),
                                 eps,
                                 at<float>(query),
                                 at<float>(keys),
                                 at<float>(values),
                                 rows,
                                 heads,
                                 kv_heads,
                                 capacity,
                                 width,
                                 threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(rotary_to_cache, args);
}

void swiglu(Address gate_up, Address out, int64_t rows, int64_t width, int threads) {
    const cdgen::SwigluArgs args{at<const float>(gate_up), at<float>(out), rows, width, threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(swiglu, args);
}

void layer_norm(Address x, Address delta, Address weight, Address bias, Address out, int64_t rows,
                int64_t width, float eps, int threads) {
    const cdgen::LayerNormArgs args{at<float>(x),
                                    at<const float>(delta),
                                    at<const float>(weight),
                                    at<const float>(bias),
                                    at<float>(out),
                                    rows,
                                    width,
                                    eps,
                                    threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(layer_norm, args);
}

void gelu(Address x, Address out, int64_t count, bool tanh, int threads) {
    const cdgen::GeluArgs args{at<const float>(x), at<float>(out), count, tanh, threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(gelu, args);
}

struct Strided {
    Address data;
    int64_t node_stride, head_stride;
};

cdgen::Heads heads_of(const Strided& x) {
    return {at<const float>(x.data), x.node_stride, x.head_stride};
}

int64_t tree_attention(const Strided& query, const Strided& keys, const Strided& values,
                       Address parents, Address out, int64_t nodes, int64_t heads, int64_t kv_heads,
                       int64_t width, float scale, int threads) {
    const cdgen::TreeArgs args{heads_of(query),
                               heads_of(keys),
                               heads_of(values),
                               at<const int64_t>(parents),
                               at<float>(out),
                               nodes,
                               heads,
                               kv_heads,
                               width,
                               scale,
                               threads};
    nb::gil_scoped_release release;
    return CDGEN_RUN(tree_attention, args);
}

}  // namespace

NB_MODULE(_cpu, m) {
    m.def("instruction_set", &instruction_set);
    m.def("set_instruction_set", &set_instruction_set);
    nb::class_<Params>(m, "Params")
        .def(nb::init<float, float, float, float, float, int64_t, double>());
    nb::class_<Matrix>(m, "Matrix")
        .def("__init__", [](Matrix* self, Address data, int64_t stride, const std::string& dtype) {
            new (self) Matrix{data, stride, dtype_named(dtype)};
        });
    m.def("sample_contrastive", &sample_contrastive, "good"_a, "rows"_a, "vocab"_a, "bad"_a.none(),
          "hidden"_a.none(), "head"_a.none(), "bias"_a, "width"_a, "params"_a, "seed"_a,
          "sequence_ids"_a, "positions"_a, "threads"_a, "tokens"_a, "status"_a, "plausible"_a,
          "kept"_a);
    m.def("decode_attention", &decode_attention);
    nb::class_<Strided>(m, "Strided").def(nb::init<Address, int64_t, int64_t>());
    m.def("tree_attention", &tree_attention);
    m.def("rms_norm", &rms_norm);
    m.def("rotary_to_cache", &rotary_to_cache);
    m.def("swiglu", &swiglu);
    m.def("layer_norm", &layer_norm);
    m.def("gelu", &gelu);
}
