// SPDX-License-Identifier: GPL-2.0-only

//! The event loop: file descriptors, timers and deferred work of one thread.
//!
//! It knows nothing of peers or links: every descriptor carries a *source* `S` and every timer a key `T` that the
//! owner chose, and one [`turn`](Reactor::turn) hands back what happened. All descriptors are watched edge-triggered:
//! their owner works until the kernel says "would block".

pub mod orders;
mod timers;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use timers::Timers;

/// Events taken from the kernel in one turn.
const EVENTS_MAX: usize = 256;

/// A descriptor's place in the reactor. Never reused, so an event for a descriptor that is gone finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Watch(usize);

/// What the kernel said about a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    /// Reading may get on, also to an end or an error.
    pub readable: bool,
    /// Writing may get on.
    pub writable: bool,
    /// The other side is gone, or the descriptor is in error.
    pub closed: bool,
}

/// One thing to attend to.
#[derive(Debug)]
pub enum Happening<T> {
    /// A descriptor is ready. Whoever handles an earlier happening may have closed it meanwhile:
    /// [`Reactor::source`] says whose it is now.
    Ready(Watch, Readiness),
    /// A timer is due. Timers are never taken back: the owner looks whether one of its deadlines has really come.
    Due(T),
}

/// See the module.
#[derive(Debug)]
pub struct Reactor<S, T> {
    poll: Poll,
    events: Events,
    watched: HashMap<usize, (RawFd, S)>,
    next: usize,
    timers: Timers<T>,
}

impl<S: Copy, T> Reactor<S, T> {
    /// An empty reactor.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            watched: HashMap::new(),
            next: 0,
            timers: Timers::default(),
        })
    }

    /// Watches a descriptor for everything that may happen to it. The descriptor must stay open until
    /// [`forget`](Self::forget).
    ///
    /// # Errors
    /// When the kernel refuses to poll it.
    pub fn watch(&mut self, descriptor: &impl AsRawFd, source: S) -> io::Result<Watch> {
        let fd = descriptor.as_raw_fd();
        let token = self.next;
        self.poll.registry().register(
            &mut SourceFd(&fd),
            Token(token),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.next += 1;
        self.watched.insert(token, (fd, source));
        Ok(Watch(token))
    }

    /// The source of a descriptor that is still watched.
    pub fn source(&self, watch: Watch) -> Option<S> {
        self.watched.get(&watch.0).map(|&(_, source)| source)
    }

    /// Gives a watched descriptor another source, for instance when it changes hands.
    pub fn reassign(&mut self, watch: Watch, source: S) {
        if let Some((_, old)) = self.watched.get_mut(&watch.0) {
            *old = source;
        }
    }

    /// Stops watching; to be called before the descriptor is closed.
    pub fn forget(&mut self, watch: Watch) {
        if let Some((fd, _)) = self.watched.remove(&watch.0) {
            // Fails only for a descriptor that is not watched any more.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
    }

    /// Reports `key` in the first turn at or after `at`.
    pub fn arm(&mut self, at: Instant, key: T) {
        self.timers.arm(at, key);
    }

    /// Waits for something to happen (not at all when `busy`) and appends it to `happenings`: descriptors first, so that a thread
    /// that was stopped for a while reads what has come before it judges deadlines.
    ///
    /// # Errors
    /// When polling fails for another reason than a signal.
    pub fn turn(&mut self, busy: bool, happenings: &mut Vec<Happening<T>>) -> io::Result<()> {
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            self.timers
                .next()
                .map(|at| at.saturating_duration_since(Instant::now()))
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            let closed = event.is_error() || event.is_read_closed() || event.is_write_closed();
            let readiness = Readiness {
                readable: event.is_readable() || closed,
                writable: event.is_writable() || closed,
                closed,
            };
            happenings.push(Happening::Ready(Watch(event.token().0), readiness));
        }
        let now = Instant::now();
        while let Some(key) = self.timers.due(now) {
            happenings.push(Happening::Due(key));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_event_of_a_forgotten_descriptor_finds_nobody() {
        let mut reactor: Reactor<u8, u8> = Reactor::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let watch = reactor.watch(&far, 1).unwrap();
        near.write_all(b"x").unwrap();
        let mut happenings = Vec::new();
        reactor.turn(true, &mut happenings).unwrap();
        let [Happening::Ready(found, _)] = happenings[..] else {
            panic!("{happenings:?}");
        };
        assert_eq!((found, reactor.source(found)), (watch, Some(1)));
        reactor.forget(watch);
        reactor.watch(&far, 2).unwrap();
        assert_eq!(reactor.source(found), None);
    }

    #[test]
    fn readable_bytes_are_reported_before_a_due_timer() {
        let mut reactor: Reactor<u8, u8> = Reactor::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        reactor.watch(&far, 1).unwrap();
        reactor.arm(Instant::now(), 7);
        near.write_all(b"x").unwrap();
        let mut happenings = Vec::new();
        reactor.turn(false, &mut happenings).unwrap();
        assert!(
            matches!(
                happenings[..],
                [
                    Happening::Ready(_, Readiness { readable: true, .. }),
                    Happening::Due(7)
                ]
            ),
            "{happenings:?}"
        );
    }
}
