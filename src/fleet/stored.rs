//! Which backend made a stored response: `previous_response_id` and `GET /v1/responses/ID` have to go there.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::StoredId;

/// The most responses that are remembered; the oldest is forgotten first.
const MOST: usize = 65_536;

/// Makers of stored responses, by the backends' names.
#[derive(Debug, Default)]
pub(super) struct StoredResponses(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    makers: HashMap<StoredId, Arc<str>>,
    in_order: VecDeque<StoredId>,
}

impl StoredResponses {
    pub(super) fn remember(&self, id: StoredId, backend: &Arc<str>) {
        let Remembered { makers, in_order } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if makers.insert(id, Arc::clone(backend)).is_none() {
            in_order.push_back(id);
        }
        while in_order.len() > MOST {
            if let Some(oldest) = in_order.pop_front() {
                makers.remove(&oldest);
            }
        }
    }

    pub(super) fn maker(&self, id: StoredId) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).makers.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_nothing_else() {
        let (stored, backend) = (StoredResponses::default(), Arc::from("a"));
        let id = |number: usize| StoredId::of(&number.to_le_bytes());
        for number in (0..=MOST).chain([MOST]) {
            stored.remember(id(number), &backend);
        }
        assert_eq!((stored.maker(id(0)), stored.maker(id(1))), (None, Some(backend)));
        assert_eq!(stored.0.lock().unwrap().makers.len(), MOST);
    }
}
