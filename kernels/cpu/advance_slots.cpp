// A slot takes the next token of its prompt, or the drawn one once the prompt is used up, which may
// end its sequence. Some nanoseconds a slot: threads would cost more than they save.
#include "advance_slots.h"

namespace cdgen::CDGEN_ISA {
namespace {

// kernels/slot_event.py
enum Event : int32_t { kNothing, kDrawn, kEos, kLength, kQuarantined };

Event event_of(const SlotArgs& args, int64_t slot, int64_t following) {
    if (!args.alive[slot] || following < args.prompt_tokens[slot]) return kNothing;
    if (args.status[slot] != 0) return kQuarantined;
    for (int64_t i = 0; i < args.stop_count; ++i)
        if (args.stops[i] == args.drawn[slot]) return kEos;
    const int64_t new_tokens = following - args.prompt_tokens[slot] + 1;
    return new_tokens >= args.max_new_tokens ? kLength : kDrawn;
}

}  // namespace

void advance_slots(const SlotArgs& args) {
    for (int64_t slot = 0; slot < args.slots; ++slot) {
        const int64_t following = args.positions[slot] + 1;
        const Event event = event_of(args, slot, following);
        args.record[slot] = event;
        args.record[args.slots + slot] = static_cast<int32_t>(args.drawn[slot]);
        args.record[2 * args.slots + slot] = args.plausible[slot];
        const bool alive = args.alive[slot] && event <= kDrawn;
        int64_t token = 0;
        if (alive)
            token = event == kDrawn ? args.drawn[slot]
                                    : args.prompts[slot * args.prompt_capacity + following];
        args.alive[slot] = alive;
        args.tokens[slot] = token;
        args.positions[slot] = alive ? following : 0;
    }
}

}  // namespace cdgen::CDGEN_ISA
