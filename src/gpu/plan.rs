//! Which dispatches a program needs, which of them needn't be repeated, and which values can share memory.
//!
//! Sharing follows the lifetimes in the recorded list, largest values first ("Efficient Memory Management for Deep Neural Net
//! Inference", Pisarchyk and Lee, 2020: greedy by size for shared objects). Dispatches run in order, so a value's memory is free
//! for the next one's output after its last use.

use super::graph::{Dispatch, Origin, Value};
use std::collections::{HashMap, HashSet};

/// A recording, cut to what its outputs need.
pub struct Plan<'a> {
    /// Depends on constants alone: to be run once.
    pub once: Vec<&'a Dispatch>,
    /// To be run for each input.
    pub repeated: Vec<&'a Dispatch>,
    /// Made in `once` and needed afterwards.
    pub kept: HashSet<usize>,
}

impl<'a> Plan<'a> {
    pub fn new(recording: &'a [Dispatch], outputs: &[&Value]) -> Self {
        let mut needed: HashSet<usize> = outputs.iter().map(|value| value.id).collect();
        let mut dispatches: Vec<&Dispatch> = Vec::new();
        for dispatch in recording.iter().rev() {
            if needed.contains(&dispatch.write.id) {
                needed.extend(dispatch.reads.iter().map(|value| value.id));
                dispatches.push(dispatch);
            }
        }
        dispatches.reverse();

        // A value changes from run to run if any of its writers reads one that does.
        let mut changing: HashSet<usize> = HashSet::new();
        for dispatch in &dispatches {
            if dispatch.reads.iter().any(|value| matches!(value.origin, Origin::Input) || changing.contains(&value.id)) {
                changing.insert(dispatch.write.id);
            }
        }
        let (repeated, once): (Vec<_>, Vec<_>) = dispatches.into_iter().partition(|d| changing.contains(&d.write.id));
        let made: HashSet<usize> = once.iter().map(|d| d.write.id).collect();
        let read = repeated.iter().flat_map(|d| d.reads.iter().map(|value| value.id)).chain(outputs.iter().map(|value| value.id));
        let kept = read.filter(|id| made.contains(id)).collect();
        Self { once, repeated, kept }
    }
}

/// Memory that values take in turn.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Slots {
    pub bytes: Vec<usize>,
    /// Each value's slot, by its id.
    pub of: HashMap<usize, usize>,
}

/// A value's bytes, and the first and last dispatch that it must be in memory for.
#[derive(Clone, Copy, Debug)]
struct Life {
    id: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

/// Finds memory for what is made or put in by `dispatches`; the values of `outputs` stay to the end.
/// Values that `elsewhere` holds have their memory already.
pub fn share(dispatches: &[&Dispatch], outputs: &HashSet<usize>, elsewhere: impl Fn(usize) -> bool) -> Slots {
    let mut lives: HashMap<usize, Life> = HashMap::new();
    for (i, dispatch) in dispatches.iter().enumerate() {
        for value in dispatch.reads.iter().chain([&dispatch.write]) {
            if matches!(value.origin, Origin::Constant(_)) || elsewhere(value.id) {
                continue;
            }
            let first = if matches!(value.origin, Origin::Input) { 0 } else { i };
            let life = lives.entry(value.id).or_insert(Life { id: value.id, bytes: value.bytes, first, last: i });
            life.last = if outputs.contains(&value.id) { usize::MAX } else { i };
        }
    }
    assign(lives.into_values().collect())
}

fn assign(mut lives: Vec<Life>) -> Slots {
    lives.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.first, life.id));
    let mut slots = Slots::default();
    let mut tenants: Vec<Vec<Life>> = Vec::new();
    for life in lives {
        // All slots are at least as large as this value: any that is free will do, and the last one wastes least.
        let free = |tenants: &Vec<Life>| tenants.iter().all(|other| other.last < life.first || life.last < other.first);
        let slot = tenants.iter().rposition(free).unwrap_or_else(|| {
            slots.bytes.push(life.bytes);
            tenants.push(Vec::new());
            tenants.len() - 1
        });
        tenants[slot].push(life);
        slots.of.insert(life.id, slot);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(id: usize, bytes: usize, first: usize, last: usize) -> Life {
        Life { id, bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let slots = assign((0..10).map(|i| life(i, 100 + i, i, i + 1)).collect());
        assert_eq!(slots.bytes.len(), 2);
        assert!(slots.bytes.iter().sum::<usize>() <= 109 + 108);
    }

    #[test]
    fn what_lives_at_the_same_time_never_shares() {
        let lives: Vec<Life> = (0..200).map(|i| life(i, (i * 7919) % 97 + 1, (i * 31) % 60, (i * 31) % 60 + (i * 17) % 11)).collect();
        let slots = assign(lives.clone());
        for a in &lives {
            assert!(slots.bytes[slots.of[&a.id]] >= a.bytes);
            for b in lives.iter().filter(|b| b.id != a.id && a.first <= b.last && b.first <= a.last) {
                assert_ne!(slots.of[&a.id], slots.of[&b.id], "{a:?} {b:?}");
            }
        }
    }
}
