// Every panel is packed by itself, as one task of the pool.
#include "pack.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>
#include <string>

#include "pool.hpp"
#include "slab.hpp"
#include "stored.hpp"

namespace headrace {
namespace {

// A row of int8 weights: w = scale * (bytes - 128).
struct Int8Row {
    float scale;
    std::vector<uint8_t> bytes;
    std::vector<uint32_t> steps;  // dq | mq << 16 of every 32 columns, where nibbles say the same
};

// The integer definition of weight.hpp; false where 16 bits cannot hold it, as with blocks whose
// minimum nearly cancels an enormous step.
bool define_by_nibbles(const Piece& piece, int row, int k, Int8Row& out) {
    const uint8_t* from = row_start(piece, row, k);
    Block block;
    for (int b = 0; b < k / 32; ++b, from += stored_bytes(piece.type)) {
        read_block(piece.type, from, block);
        const int offset = piece.type == Stored::q4_0 ? 8 : 0;
        const double minimum = block.m - static_cast<double>(offset) * block.d;
        const double step = 256.0 * block.d / out.scale;
        const double first = 256.0 * (minimum / out.scale + 128.0);
        if (std::fabs(step) > 1e6 || std::fabs(first) > 1e8) return false;
        const uint32_t dq = static_cast<uint32_t>(std::llround(step)) & 0xffffu;
        const uint32_t mq = static_cast<uint32_t>(std::llround(first) + 128) & 0xffffu;
        out.steps[b] = dq | mq << 16;
        // Of the sixteen values a nibble may have, what they become, and which of them are off.
        uint8_t become[16];
        uint32_t off = 0, used = 0;
        for (uint32_t q = 0; q < 16; ++q) {
            const uint32_t u = ((dq * q + mq) & 0xffffu) >> 8;
            const float value = block.d * static_cast<float>(static_cast<int>(q) - offset) + block.m;
            const float exact = value / out.scale + 128.0f;
            off |= static_cast<uint32_t>(std::fabs(static_cast<float>(u) - exact) > 0.6f) << q;
            become[q] = static_cast<uint8_t>(u);
        }
        for (int j = 0; j < 32; ++j) {
            const int q = block.v[j] + offset;
            used |= 1u << q;
            out.bytes[32 * b + j] = become[q];
        }
        if (used & off) return false;
    }
    return true;
}

// Where column k of lane l is among bytes, and among the bytes that hold nibbles.
size_t byte_at(int l, int k) {
    return static_cast<size_t>(k / 4) * 128 + l / LANES * 64 + l % LANES * 4 + k % 4;
}
size_t nibble_at(int l, int k) { return byte_at(l, k / 8 * 4 + k % 4); }
size_t word_at(int l, int k) {
    return static_cast<size_t>(k / 2) * 64 + l / LANES * 32 + l % LANES * 2 + k % 2;
}

// The 32 values of a block as nibbles of lane l.
void put_nibbles(uint8_t* nibbles, int l, const Block& block, int offset) {
    for (int k = 0; k < 32; k += 8) {
        uint8_t four[4];
        for (int j = 0; j < 4; ++j)
            four[j] = static_cast<uint8_t>((block.v[k + j] + offset) |
                                           (block.v[k + 4 + j] + offset) << 4);
        std::memcpy(nibbles + nibble_at(l, k), four, 4);
    }
}

void put_bytes(uint8_t* bytes, int l, const Block& block, int offset) {
    for (int k = 0; k < 32; k += 4) {
        uint8_t four[4];
        for (int j = 0; j < 4; ++j) four[j] = static_cast<uint8_t>(block.v[k + j] + offset);
        std::memcpy(bytes + byte_at(l, k), four, 4);
    }
}

int offset_of(Form form) { return form == Form::q4_0 ? 8 : form == Form::q4_1 ? 0 : 128; }

float native_value(const Panel& panel, int l, int k) {
    const int head = has_minimum(panel.form) ? 4 : 2, j = k % 32;
    const uint8_t* block = panel.many + static_cast<size_t>(k / 32) * form_bytes(panel.form);
    const uint8_t* weights = block + head * PANEL;
    const int nibble = weights[nibble_at(l, j)] >> (j % 8 < 4 ? 0 : 4) & 15;
    const int u = has_nibbles(panel.form) ? nibble : weights[byte_at(l, j)];
    const float m = head == 4 ? half_to_float(load_u16(block + 4 * l + 2)) : 0.0f;
    return half_to_float(load_u16(block + head * l)) *
               static_cast<float>(u - offset_of(panel.form)) + m;
}

bool is_q4(Stored type) { return type == Stored::q4_0 || type == Stored::q4_1; }

}  // namespace

class Packer {
  public:
    Packer(Kind kind, bool gated, const std::vector<Piece>& pieces, int k)
        : pieces_(pieces), packed_(new PackedWeight()), weight_(packed_->weight_) {
        int n = 0;
        for (const Piece& piece : pieces) {
            if (piece.n < 1 || k < 1 || k % stored_block(piece.type) != 0)
                throw std::invalid_argument("matrices need rows, and columns in whole blocks");
            n += piece.n;
        }
        weight_.kind = kind;
        weight_.gated = gated;
        weight_.n = gated ? n / 2 : n;
        weight_.k = k;
        weight_.width = round_up(k, CHUNK);
        weight_.panels = gated ? round_up(weight_.n, CHUNK) / LANES : round_up(n, PANEL) / PANEL;
        weight_.few_rows = kind == Kind::int8 ? FEW_ROWS : 0;
        lay_out();
    }

    std::shared_ptr<PackedWeight> pack(const float* bias, const float* up_bias) {
        const PoolTurn turn;
        pool().each(weight_.panels, [this](int panel, int) { pack_panel(panel); });
        if (bad_.load() >= 0) throw std::invalid_argument(describe_bad());
        weight_.few_bytes = 0;
        for (const Panel& p : packed_->panels_)
            weight_.few_bytes += p.few != nullptr ? few_size() : many_size(p.form);
        for (int c = 0; c < weight_.panels * PANEL && bias != nullptr; ++c) {
            const Channel channel = channel_of(c);
            if (channel.piece == nullptr) continue;
            const bool up = weight_.gated && channel.piece == &pieces_[1];
            bias_[c] = up ? up_bias[channel.row] : bias[channel.row + channel.before];
        }
        return std::move(packed_);
    }

  private:
    struct Channel {
        const Piece* piece;  // null for padding
        int row, before;     // before: rows of the pieces above
    };

    Channel channel_of(int channel) const {
        if (weight_.gated) {
            const int row = channel / PANEL * LANES + channel % LANES;
            if (row >= weight_.n) return {nullptr, 0, 0};
            return {&pieces_[channel % PANEL / LANES], row, 0};
        }
        int before = 0;
        for (const Piece& piece : pieces_) {
            if (channel < before + piece.n) return {&piece, channel - before, before};
            before += piece.n;
        }
        return {nullptr, 0, 0};
    }

    size_t many_size(Form form) const {
        const size_t width = static_cast<size_t>(weight_.width);
        if (weight_.kind == Kind::native) return width / 32 * form_bytes(form);
        return width * PANEL * (weight_.kind == Kind::bf16 ? 2 : 1);
    }
    size_t few_size() const { return static_cast<size_t>(weight_.width) / 32 * FEW_BYTES; }

    // What the panel's rows have in common.
    Form form_of(int panel, bool& all_q4) const {
        bool q4_0 = false, q4_1 = false, other = false;
        for (int l = 0; l < PANEL; ++l) {
            const Channel c = channel_of(panel * PANEL + l);
            if (c.piece == nullptr) continue;
            q4_0 |= c.piece->type == Stored::q4_0;
            q4_1 |= c.piece->type == Stored::q4_1;
            other |= !is_q4(c.piece->type);
        }
        all_q4 = !other;
        if (q4_1) return q4_0 || other ? Form::q8_1 : Form::q4_1;
        return q4_0 && !other ? Form::q4_0 : Form::q8_0;
    }

    void lay_out() {
        std::vector<Panel>& panels = packed_->panels_;
        panels.resize(weight_.panels);
        std::vector<bool> few(weight_.panels);
        const size_t vectors = sizeof(float) * PANEL * weight_.panels;
        size_t size = 2 * vectors;
        for (int p = 0; p < weight_.panels; ++p) {
            bool all_q4;
            panels[p].form = form_of(p, all_q4);
            few[p] = weight_.kind == Kind::int8 && all_q4;
            weight_.many_bytes += many_size(panels[p].form);
            size += many_size(panels[p].form) + (few[p] ? few_size() : 0);
        }
        packed_->memory_ = take_from_slab(size);
        packed_->nbytes_ = size;
        uint8_t* at = packed_->memory_.get();
        if (weight_.kind == Kind::int8) weight_.scale = scale_ = reinterpret_cast<float*>(at);
        weight_.bias = bias_ = reinterpret_cast<float*>(at + vectors);
        at += 2 * vectors;
        for (Panel& panel : panels) {
            many_.push_back(at);
            panel.many = at;
            at += many_size(panel.form);
        }
        for (int p = 0; p < weight_.panels; ++p) {
            few_.push_back(at);
            panels[p].few = few[p] ? at : nullptr;
            at += few[p] ? few_size() : 0;
        }
        weight_.panel = panels.data();
    }

    void report(int channel) {
        int none = -1;
        bad_.compare_exchange_strong(none, channel);
    }

    std::string describe_bad() const {
        const Channel c = channel_of(bad_.load());
        return "row " + std::to_string(c.row) + " of matrix " +
               std::to_string(c.piece - pieces_.data() + 1) + " of " +
               std::to_string(pieces_.size()) +
               " has values that are not finite or too large for this format; the file is damaged";
    }

    // A channel's values, padded with zeros; false where one is not finite.
    bool read(int channel, const Channel& c, std::vector<float>& values) {
        values.assign(weight_.width, 0.0f);
        if (c.piece == nullptr) return true;
        read_row(*c.piece, c.row, weight_.k, values.data());
        float all = 0.0f;
        for (const float v : values) all += v * 0.0f;
        if (all != 0.0f || std::isnan(all)) {
            report(channel);
            return false;
        }
        return true;
    }

    void pack_panel(int panel) {
        std::vector<float> values;
        for (int l = 0; l < PANEL; ++l) {
            const int channel = panel * PANEL + l;
            const Channel c = channel_of(channel);
            if (!read(channel, c, values)) return;
            if (weight_.kind == Kind::int8)
                pack_int8(panel, l, c, values);
            else if (weight_.kind == Kind::native)
                pack_native(panel, l, c, values);
            else
                pack_bf16(panel, l, values);
        }
    }

    void pack_int8(int panel, int l, const Channel& c, const std::vector<float>& values) {
        const int width = weight_.width;
        Panel& p = packed_->panels_[panel];
        Int8Row row;
        row.bytes.assign(width, 128);
        row.steps.assign(width / 32, 128u << 24);
        float top = 0.0f;
        for (const float v : values) top = std::max(top, std::fabs(v));
        row.scale = top < 1e-36f ? 0.0f : top / 127.0f;
        scale_[panel * PANEL + l] = row.scale;
        const bool q4 = c.piece != nullptr && is_q4(c.piece->type);
        const bool defined =
            row.scale > 0.0f && q4 && define_by_nibbles(*c.piece, c.row, weight_.k, row);
        if (row.scale > 0.0f && !defined) {
            for (int i = 0; i < width; ++i)
                row.bytes[i] = static_cast<uint8_t>(128 + std::lrint(values[i] / row.scale));
            p.few = nullptr;
        }
        for (int i = 0; i < width; i += 4)
            std::memcpy(many_[panel] + byte_at(l, i), &row.bytes[i], 4);
        if (p.few == nullptr) return;
        uint8_t* few = few_[panel] + 4 * l;
        for (int b = 0; b < width / 32; ++b, few += FEW_BYTES) std::memcpy(few, &row.steps[b], 4);
        if (!defined) return;
        const uint8_t* from = row_start(*c.piece, c.row, weight_.k);
        uint8_t* to = few_[panel] + 4 * PANEL;
        const int offset = c.piece->type == Stored::q4_0 ? 8 : 0, step = stored_bytes(c.piece->type);
        Block block;
        for (int b = 0; b < weight_.k / 32; ++b, to += FEW_BYTES, from += step) {
            read_block(c.piece->type, from, block);
            put_nibbles(to, l, block, offset);
        }
    }

    void pack_native(int panel, int l, const Channel& c, const std::vector<float>& values) {
        const Panel& p = packed_->panels_[panel];
        const int stride = form_bytes(p.form), head = has_minimum(p.form) ? 4 : 2;
        const bool stored = c.piece != nullptr && c.piece->type >= Stored::q8_0;
        uint8_t* to = many_[panel];
        for (int b = 0; b < weight_.width / 32; ++b, to += stride) {
            uint8_t* d_m = to + head * l;
            uint8_t* weights = to + head * PANEL;
            Block block{};
            uint16_t d, m = 0;
            if (stored && 32 * b < weight_.k) {
                const uint8_t* from = row_start(*c.piece, c.row, weight_.k) +
                                      static_cast<size_t>(b) * stored_bytes(c.piece->type);
                read_block(c.piece->type, from, block);
                d = load_u16(from);
                if (c.piece->type == Stored::q4_1) m = load_u16(from + 2);
            } else {
                d = to_q8_0(&values[32 * b], block);
                if (d == 0x7c00u) return report(panel * PANEL + l);
            }
            std::memcpy(d_m, &d, 2);
            if (head == 4) std::memcpy(d_m + 2, &m, 2);
            if (has_nibbles(p.form))
                put_nibbles(weights, l, block, offset_of(p.form));
            else
                put_bytes(weights, l, block, offset_of(p.form));
        }
    }

    static uint16_t to_q8_0(const float* values, Block& block) {
        float top = 0.0f;
        for (int j = 0; j < 32; ++j) top = std::fmax(top, std::fabs(values[j]));
        const uint16_t d = float_to_half(top / 127.0f);
        const float step = half_to_float(d);
        for (int j = 0; j < 32; ++j) {
            const float v = step > 0.0f ? values[j] / step : 0.0f;
            block.v[j] = static_cast<int>(std::lrint(std::fmin(std::fmax(v, -127.0f), 127.0f)));
        }
        return d;
    }

    void pack_bf16(int panel, int l, const std::vector<float>& values) {
        uint16_t* to = reinterpret_cast<uint16_t*>(many_[panel]);
        for (int i = 0; i < weight_.width; ++i)
            to[word_at(l, i)] = float_to_bf16(values[i]);
    }

    const std::vector<Piece>& pieces_;
    std::shared_ptr<PackedWeight> packed_;
    Weight& weight_;
    float* scale_ = nullptr;
    float* bias_ = nullptr;
    std::vector<uint8_t*> many_, few_;  // of each panel, to write to
    std::atomic<int> bad_{-1};
};

std::shared_ptr<PackedWeight> PackedWeight::pack(Kind kind, const std::vector<Piece>& pieces,
                                                 int k, const float* bias) {
    if (pieces.empty()) throw std::invalid_argument("there is no matrix to pack");
    return Packer(kind, false, pieces, k).pack(bias, nullptr);
}

std::shared_ptr<PackedWeight> PackedWeight::pack_gated(Kind kind, const Piece& gate,
                                                       const Piece& up, int k,
                                                       const float* gate_bias,
                                                       const float* up_bias) {
    if (gate.n != up.n) throw std::invalid_argument("gate and up need the same number of rows");
    const std::vector<Piece> pieces = {gate, up};
    return Packer(kind, true, pieces, k).pack(gate_bias, up_bias);
}

void PackedWeight::dense_row(int row, float* out) const {
    const bool up = weight_.gated && row >= weight_.n;
    const int place = up ? row - weight_.n : row;
    const int panel = place / (weight_.gated ? LANES : PANEL);
    const int l = weight_.gated ? place % LANES + (up ? LANES : 0) : place % PANEL;
    const Panel& p = panels_[panel];
    for (int i = 0; i < weight_.k; ++i) {
        if (weight_.kind == Kind::int8)
            out[i] = weight_.scale[panel * PANEL + l] *
                     static_cast<float>(p.many[byte_at(l, i)] - 128);
        else if (weight_.kind == Kind::bf16)
            out[i] = bf16_to_float(load_u16(p.many + 2 * word_at(l, i)));
        else
            out[i] = native_value(p, l, i);
    }
}

}  // namespace headrace
