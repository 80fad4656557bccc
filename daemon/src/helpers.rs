// SPDX-License-Identifier: GPL-2.0-only

//! Work that may take its time, as writing a file does: done by threads of its own, so that the one that moves bytes never
//! waits.

use crate::events::{Reactor, Source};
use crate::fencing::{self, Handler};
use crate::memory::Store;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{channel, sync_channel, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use weft_uapi::control::{Fence, Memory};
use weft_uapi::state::FenceOutcome;
use weft_uapi::status::Name;
use zerocopy::IntoBytes;

/// Questions that wait at most. The module repeats what gets lost.
const QUESTIONS_MAX: usize = 64;
/// Bytes of a thread's stack: all memory of the daemon is locked.
const STACK_BYTES: usize = 256 << 10;

/// The threads, and what comes of their work.
#[derive(Debug)]
pub struct Helpers {
    questions: SyncSender<Memory>,
    answers: Receiver<Vec<u8>>,
    bell: UnixStream,
    desk: Arc<Desk>,
    /// Resource and peer of each handler that runs.
    running: Arc<Mutex<BTreeSet<(Name, u32)>>>,
}

/// Where a thread leaves an answer for the module.
#[derive(Debug)]
struct Desk {
    answers: Sender<Vec<u8>>,
    bell: UnixStream,
}

impl Desk {
    fn put(&self, answer: &[u8]) {
        // The daemon is gone, or the bell has been rung often enough.
        let _ = self.answers.send(answer.to_vec());
        let _ = (&self.bell).write(&[0]);
    }
}

impl Helpers {
    /// Starts the thread that keeps what tie-breakers have to know.
    ///
    /// # Errors
    /// When the kernel gives no thread or descriptors.
    pub fn start(reactor: &mut Reactor, store: Store) -> io::Result<Self> {
        let (bell, ringer) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ringer.set_nonblocking(true)?;
        reactor.watch(&bell, Source::Helpers)?;
        let (questions, asked) = sync_channel::<Memory>(QUESTIONS_MAX);
        let (sender, answers) = channel();
        let desk = Arc::new(Desk {
            answers: sender,
            bell: ringer,
        });
        let keepers = Arc::clone(&desk);
        let keep = move || {
            for question in asked {
                match store.answer(&question) {
                    Ok(answer) => keepers.put(answer.as_bytes()),
                    Err(error) => log::error!("what a tie-breaker has to know: {error}"),
                }
            }
        };
        let keeper = thread::Builder::new().name("weftd-keeper".to_owned());
        keeper.stack_size(STACK_BYTES).spawn(keep)?;
        Ok(Self {
            questions,
            answers,
            bell,
            desk,
            running: Arc::default(),
        })
    }

    /// Has a question of the module answered some time later.
    pub fn ask(&self, question: &Memory) {
        if self.questions.try_send(*question).is_err() {
            log::warn!("the disk of the state directory is slow");
        }
    }

    /// Has a peer fenced, unless that is under way. The question is repeated until it is answered.
    pub fn fence(&self, question: &Fence, handler: Result<Handler, String>) {
        let topic = (question.resource, question.peer);
        if !lock(&self.running).insert(topic) {
            return;
        }
        let (desk, running) = (Arc::clone(&self.desk), Arc::clone(&self.running));
        let question = *question;
        let run = move || {
            let answer = match handler {
                Ok(handler) => handler.run(),
                Err(why) => {
                    log::error!("fence-peer: {why}");
                    fencing::answer(&question, FenceOutcome::Failed)
                }
            };
            lock(&running).remove(&topic);
            desk.put(answer.as_bytes());
        };
        let thread = thread::Builder::new().name("weftd-fence".to_owned());
        if let Err(error) = thread.stack_size(STACK_BYTES).spawn(run) {
            // Asked again, it may work.
            lock(&self.running).remove(&topic);
            log::error!("fence-peer: no thread: {error}");
        }
    }

    /// The next answer for the module.
    pub fn next_answer(&mut self) -> Option<Vec<u8>> {
        let mut rings = [0; 64];
        while self.bell.read(&mut rings).is_ok_and(|count| count > 0) {}
        self.answers.try_recv().ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
