// SPDX-License-Identifier: GPL-2.0-only
//! The network between test machines: one switch inside this process. QEMU hands
//! over every frame of a machine through a socket; the switch looks the receiver
//! up by its address and treats the frame as the link between the two demands, in
//! that direction: cut, lossy, slow, or late.
//!
//! A machine that does not take its frames loses them once its queue is full and
//! slows nobody else down.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::random::Random;

/// Frames travel between QEMU and the switch behind a big-endian u32 length.
const FRAME_LEN_MAX: usize = 64 * 1024 + 64;
/// Bytes that wait for one machine, and bytes that wait for a slow link.
const PORT_QUEUE_LEN_MAX: usize = 4 << 20;
const LINK_QUEUE_LEN_MAX: u64 = 128 << 10;
const MAC_PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x77, 0x00];

/// The hardware address of a node's network card.
pub(crate) fn mac(node: usize) -> String {
    let [a, b, c, d, e] = MAC_PREFIX;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{node:02x}")
}

/// What happens to frames on one link in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Nothing gets through.
    pub cut: bool,
    /// Every frame arrives so much later.
    pub delay: Duration,
    /// Bytes per second that fit through; none means no limit.
    pub rate: Option<u64>,
    /// How many frames in a hundred are lost.
    pub loss_percent: u8,
}

/// What a link did in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that got through.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames that did not.
    pub dropped: u64,
}

/// The switch. Clones are the same switch.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Vec<Port>,
    links: Mutex<Links>,
}

/// Frames on their way to one machine.
#[derive(Default)]
struct Port {
    queue: Mutex<Queue>,
    arrivals: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Due time, order of arrival, frame.
    frames: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    bytes: usize,
    arrived: u64,
    /// Which life of the machine is plugged in; none between two lives.
    life: Option<u64>,
    lives: u64,
}

struct Links {
    nodes: usize,
    /// By sender, then receiver.
    links: Vec<Link>,
    random: Random,
}

#[derive(Clone, Default)]
struct Link {
    condition: Condition,
    counters: Counters,
    /// When a limited link has sent what it already took.
    free_at: Option<Instant>,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        let links = Links {
            nodes,
            links: vec![Link::default(); nodes * nodes],
            random: Random::new(0),
        };
        Network {
            shared: Arc::new(Shared {
                ports: (0..nodes).map(|_| Port::default()).collect(),
                links: Mutex::new(links),
            }),
        }
    }

    /// Changes how the link treats frames from one node to another.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Condition)) {
        change(&mut self.shared.links().get(from, to).condition);
    }

    /// Stops all frames from one node to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |condition| condition.cut = true);
    }

    /// Stops all frames between two nodes.
    pub fn cut_both(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Stops all frames to and from a node.
    pub fn isolate(&self, node: usize) {
        let others = (0..self.shared.ports.len()).filter(|other| *other != node);
        others.for_each(|other| self.cut_both(node, other));
    }

    /// Lets frames from one node to another pass as if nothing had been.
    pub fn heal(&self, from: usize, to: usize) {
        self.change(from, to, |condition| *condition = Condition::default());
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        for link in &mut self.shared.links().links {
            link.condition = Condition::default();
        }
    }

    /// What passed from one node to another so far.
    pub fn counters(&self, from: usize, to: usize) -> Counters {
        self.shared.links().get(from, to).counters
    }

    /// Plugs in one life of a machine and returns QEMU's end of the cable.
    pub(crate) fn plug(&self, node: usize) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let life = self.shared.ports[node].open();
        let (shared, from_machine) = (Arc::clone(&self.shared), ours.try_clone()?);
        thread::spawn(move || shared.forward_from(node, life, from_machine));
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.ports[node].deliver(life, ours));
        Ok(theirs)
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes frames from a machine until it is gone.
    fn forward_from(&self, node: usize, life: u64, mut stream: UnixStream) {
        while let Ok(frame) = read_frame(&mut stream) {
            match receiver(&frame) {
                Receiver::One(to) if to < self.ports.len() && to != node => {
                    self.forward(node, to, frame);
                }
                Receiver::One(_) => {}
                Receiver::All => (0..self.ports.len())
                    .filter(|to| *to != node)
                    .for_each(|to| self.forward(node, to, frame.clone())),
            }
        }
        self.ports[node].close(life);
    }

    fn forward(&self, from: usize, to: usize, frame: Vec<u8>) {
        let mut links = self.links();
        if let Some(due) = links.admit(from, to, frame.len()) {
            drop(links);
            self.ports[to].push(due, frame);
        }
    }
}

impl Links {
    fn get(&mut self, from: usize, to: usize) -> &mut Link {
        assert!(
            from < self.nodes && to < self.nodes,
            "no link from {from} to {to}"
        );
        &mut self.links[from * self.nodes + to]
    }

    /// When a frame arrives, if it does.
    fn admit(&mut self, from: usize, to: usize, len: usize) -> Option<Instant> {
        let loss_percent = self.get(from, to).condition.loss_percent;
        let lost = self.random.percent(loss_percent);
        let link = self.get(from, to);
        let due = if lost || link.condition.cut {
            None
        } else {
            link.transmit(len as u64, Instant::now())
        };
        let counters = &mut link.counters;
        if due.is_some() {
            counters.frames += 1;
            counters.bytes += len as u64;
        } else {
            counters.dropped += 1;
        }
        due
    }
}

impl Link {
    fn transmit(&mut self, len: u64, now: Instant) -> Option<Instant> {
        let Some(rate) = self.condition.rate.map(|rate| rate.max(1)) else {
            return Some(now + self.condition.delay);
        };
        let time_for = |bytes: u64| Duration::from_secs_f64(bytes as f64 / rate as f64);
        let start = self.free_at.unwrap_or(now).max(now);
        if start - now > time_for(LINK_QUEUE_LEN_MAX) {
            return None;
        }
        let end = start + time_for(len);
        self.free_at = Some(end);
        Some(end + self.condition.delay)
    }
}

impl Port {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> u64 {
        let mut queue = self.queue();
        queue.lives += 1;
        queue.life = Some(queue.lives);
        queue.clear();
        queue.lives
    }

    fn close(&self, life: u64) {
        let mut queue = self.queue();
        if queue.life == Some(life) {
            queue.life = None;
            queue.clear();
        }
        self.arrivals.notify_all();
    }

    fn push(&self, due: Instant, frame: Vec<u8>) {
        let mut queue = self.queue();
        if queue.life.is_none() || queue.bytes + frame.len() > PORT_QUEUE_LEN_MAX {
            return;
        }
        queue.bytes += frame.len();
        queue.arrived += 1;
        let order = queue.arrived;
        queue.frames.push(Reverse((due, order, frame)));
        self.arrivals.notify_all();
    }

    /// Hands frames to a machine when they are due, until it is gone.
    fn deliver(&self, life: u64, mut stream: UnixStream) {
        while let Some(frame) = self.next_due(life) {
            let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(&frame);
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }

    /// Waits for a frame; none when this life is over.
    fn next_due(&self, life: u64) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        while queue.life == Some(life) {
            let now = Instant::now();
            let due = queue.frames.peek().map(|Reverse((due, ..))| *due);
            match due {
                Some(due) if due <= now => return queue.pop(),
                Some(due) => {
                    let waited = self.arrivals.wait_timeout(queue, due - now);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    let waited = self.arrivals.wait(queue);
                    queue = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        None
    }
}

impl Queue {
    fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let Reverse((_, _, frame)) = self.frames.pop()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

enum Receiver {
    One(usize),
    All,
}

fn receiver(frame: &[u8]) -> Receiver {
    match frame {
        [first, ..] if first & 1 == 1 => Receiver::All,
        [a, b, c, d, e, node, ..] if [*a, *b, *c, *d, *e] == MAC_PREFIX => {
            Receiver::One(usize::from(*node))
        }
        _ => Receiver::One(usize::MAX),
    }
}

fn read_frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

#[cfg(test)]
mod tests;
