//! Every path ends: together with "a run can go on" that is liveness. A run whose brains, people and commands do what they
//! can, in whatever order, ends once the faults are over.
//!
//! The checker's own `eventually` is of no use here: it takes a state that it meets again for good, also in a cycle.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash as _, Hasher as _};

use stateright::Model as _;

use crate::protocol::{Action, Protocol, State};

/// A state on the path: its fingerprint, the action that led here, and what was not walked yet.
type Visit = (u64, Option<Action>, Vec<(Action, State)>);

/// Walks every path in depth and looks for one that comes back to where it was. Answers the number of states.
///
/// # Errors
/// The actions that lead round and round.
pub fn every_path_ends(protocol: &Protocol) -> Result<usize, Vec<Action>> {
    let mut on_path: HashMap<u64, bool> = HashMap::new();
    let mut path: Vec<Visit> = Vec::new();
    for start in protocol.init_states() {
        let print = fingerprint(&start);
        on_path.insert(print, true);
        path.push((print, None, protocol.next_steps(&start)));
        while let Some((print, _, rest)) = path.last_mut() {
            let Some((action, state)) = rest.pop() else {
                on_path.insert(*print, false);
                path.pop();
                continue;
            };
            let next = fingerprint(&state);
            match on_path.entry(next) {
                Entry::Occupied(seen) if *seen.get() => {
                    let begin = path.iter().position(|(p, ..)| *p == next).unwrap_or(0);
                    return Err(path[begin + 1..].iter().filter_map(|(_, a, _)| *a).chain([action]).collect());
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(new) => {
                    new.insert(true);
                    path.push((next, Some(action), protocol.next_steps(&state)));
                }
            }
        }
    }
    Ok(on_path.len())
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
