// Python bindings: arrays in (DLPack, no torch headers), raw pointers and sizes out. Shapes and
// dtypes are checked here or by nanobind's signatures; values are checked in the Python wrappers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "decode_attention.h"
#include "decoder_ops.h"
#include "sample_contrastive.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <int N>
using Any = nb::ndarray<nb::ro, nb::ndim<N>, nb::device::cpu>;
template <int N>
using Floats = nb::ndarray<const float, nb::ndim<N>, nb::device::cpu, nb::c_contig>;
template <int N>
using FloatsOut = nb::ndarray<float, nb::ndim<N>, nb::device::cpu, nb::c_contig>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
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
    require(name == "portable" || (name == "avx2" && has_avx2()),
            "instruction set: expected 'portable' or, where the processor has it, 'avx2'");
    use_avx2 = name == "avx2";
}

#if defined(CDGEN_HAS_AVX2)
#define CDGEN_RUN(kernel, args) (use_avx2 ? cdgen::avx2::kernel(args) : cdgen::portable::kernel(args))
#else
#define CDGEN_RUN(kernel, args) cdgen::portable::kernel(args)
#endif

cdgen::Dtype dtype_of(nb::dlpack::dtype dtype) {
    using nb::dlpack::dtype_code;
    if (dtype == nb::dtype<float>()) return cdgen::Dtype::f32;
    require(dtype.bits == 16 && dtype.lanes == 1, "dtype: expected float32, bfloat16 or float16");
    if (dtype.code == static_cast<uint8_t>(dtype_code::Bfloat)) return cdgen::Dtype::bf16;
    require(dtype.code == static_cast<uint8_t>(dtype_code::Float),
            "dtype: expected float32, bfloat16 or float16");
    return cdgen::Dtype::fp16;
}

void set_params(cdgen::SampleArgs& args, nb::handle params) {
    args.good_weight = nb::cast<float>(params.attr("good_weight"));
    args.bad_weight = nb::cast<float>(params.attr("bad_weight"));
    args.log_alpha = nb::cast<float>(params.attr("log_alpha"));
    args.temperature = nb::cast<float>(params.attr("temperature"));
    args.log_min_p = nb::cast<float>(params.attr("log_min_p"));
    args.top_k = nb::cast<int64_t>(params.attr("top_k"));
    args.top_p = nb::cast<double>(params.attr("top_p"));
}

// BAD by its logits (`bad`), by `hidden` and `head` (and `bias`), or not at all.
void sample(Any<2> good, std::optional<Any<2>> bad, std::optional<Any<2>> hidden,
            std::optional<Any<2>> head, std::optional<Any<1>> bias, nb::handle params,
            uint64_t seed, Longs sequence_ids, Longs positions, int64_t vocab, int threads,
            Out<int64_t> tokens, Out<uint8_t> status, Out<int32_t> plausible, Out<int32_t> kept) {
    cdgen::SampleArgs args{};
    const size_t rows = good.shape(0);
    require(sequence_ids.size() == rows && positions.size() == rows && tokens.size() == rows &&
                status.size() == rows && plausible.size() == rows && kept.size() == rows,
            "one sequence id, position and output per row of good");
    args.good = good.data();
    args.good_stride = good.stride(0);
    args.good_dtype = dtype_of(good.dtype());
    args.rows = static_cast<int64_t>(rows);
    args.vocab = vocab;
    if (bad) {
        args.bad = bad->data();
        args.bad_stride = bad->stride(0);
    }
    if (head) {
        args.hidden = hidden->data();
        args.hidden_stride = hidden->stride(0);
        args.head = head->data();
        args.head_stride = head->stride(0);
        args.width = static_cast<int64_t>(head->shape(1));
        args.head_dtype = dtype_of(head->dtype());
        if (bias) args.bias = bias->data();
    }
    set_params(args, params);
    args.seed = seed;
    args.sequence_ids = sequence_ids.data();
    args.positions = positions.data();
    args.threads = threads;
    args.tokens = tokens.data();
    args.status = status.data();
    args.plausible = plausible.data();
    args.kept = kept.data();
    nb::gil_scoped_release release;
    CDGEN_RUN(sample_contrastive, args);
}

void attention(Floats<3> query, Floats<4> keys, Floats<4> values, Longs lengths, float scale,
               float rate, uint64_t seed, int64_t layer, Longs sequence_ids, int threads,
               FloatsOut<3> out) {
    cdgen::AttentionArgs args{};
    args.rows = static_cast<int64_t>(query.shape(0));
    args.heads = static_cast<int64_t>(query.shape(1));
    args.width = static_cast<int64_t>(query.shape(2));
    args.kv_heads = static_cast<int64_t>(keys.shape(1));
    args.capacity = static_cast<int64_t>(keys.shape(2));
    args.query = query.data();
    args.keys = keys.data();
    args.values = values.data();
    args.lengths = lengths.data();
    args.scale = scale;
    args.rate = rate;
    args.seed = seed;
    args.layer = layer;
    args.sequence_ids = sequence_ids.data();
    args.threads = threads;
    args.out = out.data();
    nb::gil_scoped_release release;
    CDGEN_RUN(decode_attention, args);
}

void norm(FloatsOut<2> x, std::optional<Floats<2>> delta, Floats<1> weight, float eps, int threads,
          FloatsOut<2> out) {
    const cdgen::NormArgs args{x.data(), delta ? delta->data() : nullptr, weight.data(), out.data(),
                               static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
                               eps, threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(rms_norm, args);
}

void rotary(Floats<2> qkv, Floats<2> cos, Floats<2> sin, Longs positions,
            std::optional<Floats<1>> query_norm, std::optional<Floats<1>> key_norm, float eps,
            FloatsOut<3> query, FloatsOut<4> keys, FloatsOut<4> values, int threads) {
    cdgen::RotaryArgs args{};
    args.qkv = qkv.data();
    args.cos = cos.data();
    args.sin = sin.data();
    args.positions = positions.data();
    args.query_norm = query_norm ? query_norm->data() : nullptr;
    args.key_norm = key_norm ? key_norm->data() : nullptr;
    args.eps = eps;
    args.query = query.data();
    args.keys = keys.data();
    args.values = values.data();
    args.rows = static_cast<int64_t>(query.shape(0));
    args.heads = static_cast<int64_t>(query.shape(1));
    args.width = static_cast<int64_t>(query.shape(2));
    args.kv_heads = static_cast<int64_t>(keys.shape(1));
    args.capacity = static_cast<int64_t>(keys.shape(2));
    args.threads = threads;
    require(args.width <= 1024, "head width: expected at most 1024");
    nb::gil_scoped_release release;
    CDGEN_RUN(rotary_to_cache, args);
}

void gated(Floats<2> gate_up, int threads, FloatsOut<2> out) {
    const cdgen::SwigluArgs args{gate_up.data(), out.data(), static_cast<int64_t>(out.shape(0)),
                                 static_cast<int64_t>(out.shape(1)), threads};
    nb::gil_scoped_release release;
    CDGEN_RUN(swiglu, args);
}

}  // namespace

NB_MODULE(_cpu, m) {
    m.def("instruction_set", &instruction_set);
    m.def("set_instruction_set", &set_instruction_set);
    m.def("sample_contrastive", &sample, "good"_a, "bad"_a.none(), "hidden"_a.none(),
          "head"_a.none(), "bias"_a.none(), "params"_a, "seed"_a, "sequence_ids"_a, "positions"_a,
          "vocab"_a, "threads"_a, "tokens"_a, "status"_a, "plausible"_a, "kept"_a);
    m.def("decode_attention", &attention, "query"_a, "keys"_a, "values"_a, "lengths"_a, "scale"_a,
          "rate"_a, "seed"_a, "layer"_a, "sequence_ids"_a, "threads"_a, "out"_a);
    m.def("rms_norm", &norm, "x"_a, "delta"_a.none(), "weight"_a, "eps"_a, "threads"_a, "out"_a);
    m.def("rotary_to_cache", &rotary, "qkv"_a, "cos"_a, "sin"_a, "positions"_a,
          "query_norm"_a.none(), "key_norm"_a.none(), "eps"_a, "query"_a, "keys"_a, "values"_a,
          "threads"_a);
    m.def("swiglu", &gated, "gate_up"_a, "threads"_a, "out"_a);
}
