// The kernels (sampling_kernels.hpp) do what touches every token; here is the rest: which passes a
// row needs, and the few tokens that have to be ranked.
#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace headrace {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr int FIRST_RANKS = 64;  // of the ranking, looked at before a nucleus is cut without it
constexpr int FEW = 128;         // tokens that are ranked rather than narrowed down further
constexpr int SOME = 4096;       // tokens that are looked at apart from the rest

// A row being worked on.
struct Row {
    const Kernels& kernels;
    const float* x;
    int width;
    Scratch& scratch;
};

struct Ranking {
    const float* x;
    bool operator()(int32_t a, int32_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }
};

int blocks_of(int n) { return (n + SUMMED - 1) / SUMMED; }

// Floats as integers in the same order, and back; no NaN.
int32_t ordered(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits >= 0 ? bits : static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(bits));
}
float from_ordered(int32_t order) {
    const int32_t bits =
        order >= 0 ? order : static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(order));
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
int32_t middle(int32_t low, int32_t high) {
    return static_cast<int32_t>((static_cast<int64_t>(low) + high) >> 1);
}

// Makes room and finds the largest logit: NaN where the row is unsound, -inf if all are.
float find_peak(const Row& row) {
    const size_t n = static_cast<size_t>(row.width);
    Scratch& s = row.scratch;
    if (s.weights.size() < n) {
        s.weights.resize(n);
        s.values.resize(n);
        s.ids.resize(n + LANES);
        s.sums.resize(n / SUMMED + 1);
        s.groups.resize(n / SCAN + 1);
    }
    return row.kernels.peaks(row.x, row.width, s.groups.data());
}

// The first token of the ranking.
int first_token(const Row& row, float peak) {
    const float* groups = row.scratch.groups.data();
    int i = 0;
    while (groups[i] != peak) ++i;
    for (i *= SCAN; row.x[i] != peak; ++i) {
    }
    return i;
}

// A value that at least `count` of the n values reach (and no more than `enough`, if that can be),
// none of them above `peak`.
float reached_by(const Row& row, const float* values, int n, int count, int enough, float peak) {
    int32_t low = ordered(-INFINITE), high = ordered(peak) + 1;
    while (static_cast<int64_t>(high) - low > 1) {
        const int32_t mid = middle(low, high);
        const int found = row.kernels.reach(values, n, from_ordered(mid), row.scratch.sums.data());
        (found >= count ? low : high) = mid;
        if (found >= count && found <= enough) break;
    }
    return from_ordered(low);
}

// A value that at least `count` logits reach, and not many more if that can be.
float threshold(const Row& row, int count, float peak) {
    const int groups = (row.width + SCAN - 1) / SCAN;
    const float* maxima = row.scratch.groups.data();
    // Each group whose largest logit reaches it has one that does.
    if (count * 2 <= groups) return reached_by(row, maxima, groups, count, count + 4, peak);
    return reached_by(row, row.x, row.width, count, count + FEW, peak);
}

// The first `count` <= width of the ranking, to scratch.ids.
void rank(const Row& row, int count, float peak) {
    int32_t* ids = row.scratch.ids.data();
    const int found = row.kernels.places_within(row.x, row.width, threshold(row, count, peak),
                                                INFINITE, ids);
    const bool many = found > 2 * count;
    if (many) std::nth_element(ids, ids + count, ids + found, Ranking{row.x});
    std::sort(ids, ids + (many ? count : found), Ranking{row.x});
}

double total(const float* sums, int blocks) {
    double all = 0.0;
    for (int b = 0; b < blocks; ++b) all += sums[b];
    return all;
}

// The first of n values at which their cumulative sum exceeds `target`, but none after the last
// positive one (rounding may leave the target at the end); adds what lies before it to `before`.
int first_above(const float* values, int n, double target, double& before) {
    double sum = 0.0;
    int last = 0;
    double before_last = 0.0;
    for (int i = 0; i < n; ++i) {
        if (values[i] > 0.0f) {
            last = i;
            before_last = sum;
        }
        sum += values[i];
        if (sum > target) break;
    }
    before += before_last;
    return last;
}

// The place that a uniform number stands for among n weights with the sums of each SUMMED.
int invert(const float* weights, const float* sums, int n, double uniform) {
    const double target = uniform * total(sums, blocks_of(n));
    double before = 0.0, unused = 0.0;
    const int begin = SUMMED * first_above(sums, blocks_of(n), target, before);
    const int count = std::min(SUMMED, n - begin);
    return begin + first_above(weights + begin, count, target - before, unused);
}

// How many of n ranked weights are kept: the shortest prefix with at least `mass`, no more than
// `most`, none below `least`.
int prefix(const float* weights, int most, double mass, float least) {
    int kept = 0;
    double before = 0.0;
    while (kept < most && before < mass && weights[kept] >= least) before += weights[kept++];
    return kept;
}

// A draw from the first `kept` of the ranking in scratch.ids, whose weights are `weights`.
int draw_ranked(const Row& row, float* weights, int kept, double uniform) {
    float* sums = row.scratch.sums.data();
    row.kernels.cut(weights, kept, 0.0f, sums);
    return row.scratch.ids[static_cast<size_t>(invert(weights, sums, kept, uniform))];
}

// Weights of the first `count` of the ranking, in scratch.values.
float* weigh_ranked(const Row& row, int count, float peak, float inverse) {
    float* values = row.scratch.values.data();
    rank(row, count, peak);
    for (int i = 0; i < count; ++i) values[i] = row.x[row.scratch.ids[static_cast<size_t>(i)]];
    row.kernels.weigh(values, count, peak, inverse, 0.0f, values, row.scratch.sums.data());
    return values;
}

int draw_top_k(const Row& row, const Draw& draw, float peak, float inverse) {
    const int count = static_cast<int>(draw.top_k);
    float* weights = weigh_ranked(row, count, peak, inverse);
    double mass = INFINITE;
    if (draw.top_p < 1.0) {
        mass = 0.0;
        for (int i = 0; i < count; ++i) mass += weights[i];
        mass *= draw.top_p;
    }
    return draw_ranked(row, weights, prefix(weights, count, mass, draw.min_p), draw.uniform);
}

// The nucleus ends at a weight in [from_ordered(low), from_ordered(high)). So many of the tokens
// looked at reach each bound; `above` is the weight of all that reach the higher one.
struct Bounds {
    int32_t low, high;
    int reach_low, reach_high;
    double above;
    int between() const { return reach_low - reach_high; }
};

// Halves the bounds until no more than `few` tokens lie between. Tokens of weight `outside` are not
// among the n looked at; they reach the higher bound.
void narrow(const Kernels& kernels, const float* weights, int n, double outside, double mass,
            int few, float* sums, Bounds& bounds) {
    while (bounds.between() > few && bounds.high - bounds.low > 1) {
        const int32_t mid = middle(bounds.low, bounds.high);
        const int count = kernels.reach(weights, n, from_ordered(mid), sums);
        const double from_mid = outside + total(sums, blocks_of(n));
        if (from_mid >= mass) {
            bounds.low = mid;
            bounds.reach_low = count;
        } else {
            bounds.high = mid;
            bounds.reach_high = count;
            bounds.above = from_mid;
        }
    }
}

// Bounds to start from: no nucleus of `mass` needs a token that weighs less than `least`, and
// `guess` is the weight of a token that is likely inside.
Bounds first_bounds(const Row& row, double mass, float least, float guess) {
    const float* weights = row.scratch.weights.data();
    float* sums = row.scratch.sums.data();
    const int inside = row.kernels.reach(weights, row.width, guess, sums);
    const double above = total(sums, blocks_of(row.width));
    if (above >= mass) return {ordered(guess), ordered(1.0f) + 1, inside, 0, 0.0};
    const int most = row.kernels.reach(weights, row.width, least, sums);
    return {ordered(least), ordered(guess), most, inside, above};
}

// Sets the weights outside the nucleus that holds `share` of their sum `all` to zero, and those
// below `min_p`; leaves the sums of what is kept. The weight at which the nucleus ends is searched
// for by halves, among ever fewer tokens; only the last few are ranked.
void keep_nucleus(const Row& row, double share, double all, float guess, float min_p) {
    const Kernels& kernels = row.kernels;
    float *weights = row.scratch.weights.data(), *sums = row.scratch.sums.data();
    float* values = row.scratch.values.data();
    int32_t* ids = row.scratch.ids.data();
    const double mass = share * all;
    // Half of what all tokens but the nucleus could weigh on average: sums are rounded.
    const float least = static_cast<float>((1.0 - share) * all / (2.0 * row.width));
    Bounds bounds = first_bounds(row, mass, std::min(least, guess), guess);
    narrow(kernels, weights, row.width, 0.0, mass, SOME, sums, bounds);
    const int found = kernels.places_within(weights, row.width, from_ordered(bounds.low),
                                      from_ordered(bounds.high), ids);
    for (int i = 0; i < found; ++i) values[i] = weights[ids[i]];
    bounds.reach_low = found;
    bounds.reach_high = 0;
    narrow(kernels, values, found, bounds.above, mass, FEW, sums, bounds);
    const float low = from_ordered(bounds.low), high = from_ordered(bounds.high);
    int left = 0;
    for (int i = 0; i < found; ++i) {  // no branch: it would be mispredicted
        const float weight = weights[ids[i]];
        ids[left] = ids[i];
        left += (weight >= low) & (weight < high);
    }
    std::sort(ids, ids + left, Ranking{row.x});
    for (int i = 0; i < left; ++i) {
        const double before = bounds.above;
        bounds.above += weights[ids[i]];
        if (before >= mass) weights[ids[i]] = 0.0f;
    }
    kernels.cut(weights, row.width, std::max(low, min_p), sums);
}

int draw_top_p(const Row& row, const Draw& draw, float peak, float inverse) {
    float *weights = row.scratch.weights.data(), *sums = row.scratch.sums.data();
    row.kernels.weigh(row.x, row.width, peak, inverse, 0.0f, weights, sums);
    const double all = total(sums, blocks_of(row.width));
    const int count = std::min(FIRST_RANKS, row.width);
    float* first = weigh_ranked(row, count, peak, inverse);
    const int kept = prefix(first, count, draw.top_p * all, draw.min_p);
    if (kept < count || count == row.width) return draw_ranked(row, first, kept, draw.uniform);
    keep_nucleus(row, draw.top_p, all, first[count - 1], draw.min_p);
    return invert(weights, sums, row.width, draw.uniform);
}

void apply_edit(const Edit& edit, float* x) {
    for (int64_t i = 0; i < edit.seen_count; ++i) {
        float value = x[edit.seen[i]];
        value = value > 0.0f ? value / edit.repetition : value * edit.repetition;
        value = value - edit.frequency * edit.outputs[i];
        x[edit.seen[i]] = value - edit.presence * (edit.outputs[i] > 0.0f ? 1.0f : 0.0f);
    }
    for (int64_t i = 0; i < edit.biased_count; ++i) x[edit.biased[i]] += edit.biases[i];
    for (int64_t i = 0; i < edit.suppressed_count; ++i) x[edit.suppressed[i]] = -INFINITE;
}

}  // namespace

double uniform_number(uint64_t stream, uint64_t n) {
    // As sampling/random.py: Steele, Lea, Flood 2014, figure 17, with Stafford's variant 13.
    uint64_t z = stream + (n + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) * 0x1p-53;
}

int choose_token(const Kernels& kernels, const float* x, int width, const Draw& draw,
                 Scratch& scratch) {
    const Row row{kernels, x, width, scratch};
    const float peak = find_peak(row);
    if (!std::isfinite(peak)) return -1;
    if (draw.temperature == 0.0f) return first_token(row, peak);
    const float inverse = 1.0f / draw.temperature;
    if (draw.top_k < width) return draw_top_k(row, draw, peak, inverse);
    if (draw.top_p < 1.0) return draw_top_p(row, draw, peak, inverse);
    float* weights = scratch.weights.data();
    kernels.weigh(x, width, peak, inverse, draw.min_p, weights, scratch.sums.data());
    return invert(weights, scratch.sums.data(), width, draw.uniform);
}

int choose_edited(const Kernels& kernels, const float* x, int width, const Draw& draw,
                  const Edit& edit, Scratch& scratch) {
    if (!std::isfinite(find_peak({kernels, x, width, scratch}))) return -1;
    scratch.edited.assign(x, x + width);
    apply_edit(edit, scratch.edited.data());
    return choose_token(kernels, scratch.edited.data(), width, draw, scratch);
}

float log_probabilities(const Kernels& kernels, const float* x, int width, int chosen, int count,
                        int32_t* ids, float* values, Scratch& scratch) {
    const Row row{kernels, x, width, scratch};
    const float peak = find_peak(row);
    float* sums = scratch.sums.data();
    kernels.weigh(x, width, peak, 1.0f, 0.0f, scratch.weights.data(), sums);
    const double log_total = std::log(total(sums, blocks_of(width)));
    const auto value = [&](int id) {
        return static_cast<float>(static_cast<double>(x[id]) - peak - log_total);
    };
    if (count > 0) rank(row, count, peak);
    for (int i = 0; i < count; ++i) {
        ids[i] = scratch.ids[static_cast<size_t>(i)];
        values[i] = value(ids[i]);
    }
    return value(chosen);
}

}  // namespace headrace
