// SPDX-License-Identifier: GPL-2.0-only

//! A queue that grows without failing: each place comes from a pool with a reserve.

use crate::sys::memory::{Pool, PoolBox};
use kernel::sync::Arc;

/// Items in the order in which they were pushed. May be used in process context only.
///
/// Two stacks: what is pushed goes onto the one, what is popped comes from the other, which takes all of the first,
/// turned round, whenever it is empty.
pub(crate) struct Fifo<T: Unpin + 'static> {
    pushed: Stack<T>,
    next: Stack<T>,
}

/// Where the places of a [`Fifo`] come from.
pub(crate) type Places<T> = Arc<Pool<Place<T>>>;

/// A place in a queue.
pub(crate) struct Place<T> {
    item: Option<T>,
    below: Option<PoolBox<Place<T>>>,
}

impl<T: Unpin + 'static> Place<T> {
    /// A place with an item. May wait until an item of any queue with the same places is popped.
    pub(crate) fn new(places: &Places<T>, item: T) -> PoolBox<Self> {
        places.make(Self {
            item: Some(item),
            below: None,
        })
    }
}

struct Stack<T: Unpin + 'static>(Option<PoolBox<Place<T>>>);

impl<T: Unpin + 'static> Fifo<T> {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            pushed: Stack(None),
            next: Stack(None),
        }
    }

    /// Whether nothing is in the queue.
    pub(crate) fn is_empty(&self) -> bool {
        self.pushed.0.is_none() && self.next.0.is_none()
    }

    /// Adds an item at the end. May wait as [`Place::new`] does.
    pub(crate) fn push(&mut self, places: &Places<T>, item: T) {
        self.push_place(Place::new(places, item));
    }

    /// Adds an item whose place was made before, so that nobody waits under a lock.
    pub(crate) fn push_place(&mut self, mut place: PoolBox<Place<T>>) {
        place.below = self.pushed.0.take();
        self.pushed.0 = Some(place);
    }

    /// Takes the first item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next.0.is_none() {
            while let Some(mut place) = self.pushed.pop() {
                place.below = self.next.0.take();
                self.next.0 = Some(place);
            }
        }
        self.next.pop()?.item.take()
    }
}

impl<T: Unpin + 'static> Stack<T> {
    fn pop(&mut self) -> Option<PoolBox<Place<T>>> {
        let mut top = self.0.take()?;
        self.0 = top.below.take();
        Some(top)
    }
}

impl<T: Unpin + 'static> Drop for Stack<T> {
    fn drop(&mut self) {
        // One by one: the places would drop each other recursively.
        while self.pop().is_some() {}
    }
}
