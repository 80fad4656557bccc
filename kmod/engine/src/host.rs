// SPDX-License-Identifier: GPL-2.0-only

//! What the engine needs from the world it runs in.

use crate::effect::Effect;
use core::ops::DerefMut;

/// Nanoseconds of a monotonic clock of the host; the engine never asks for the time itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `milliseconds` later, saturating.
    #[must_use]
    pub const fn after_ms(self, milliseconds: u64) -> Self {
        Self(
            self.0
                .saturating_add(milliseconds.saturating_mul(1_000_000)),
        )
    }

    /// Milliseconds since `earlier`, 0 if that lies ahead.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Memory could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// The types of one host: the kernel module, or the simulator.
pub trait Host: Sized {
    /// A request of the application. The engine keeps it until it emits [`Effect::Complete`], exactly once.
    type Request: Clone;

    /// Data of the device in memory, up to 128 KiB. Cloning shares it; it never changes.
    type Buffer: Clone;

    /// A fixed piece of memory.
    type Slab<T>: DerefMut<Target = [T]>;

    /// Whether all of it is zeros. Called while the engine handles an event: it should find out quickly that it is not.
    fn is_zero(buffer: &Self::Buffer) -> bool;

    /// Allocates `len` items. Called only where the engine may sleep: when an object is configured or a disk loaded,
    /// never on the path of a request.
    fn slab<T>(len: usize, item: impl FnMut() -> T) -> Result<Self::Slab<T>, NoMemory>;
}

/// Takes the engine's effects while it handles an event, in order.
///
/// The engine is borrowed during the call (in the kernel: its lock is held), so an implementation queues or notes what
/// it is told and never calls back. Sends must keep their order per link. Everything else may be carried out in any
/// order once the engine's lock is released.
pub trait Output<H: Host> {
    /// Takes one effect.
    fn emit(&mut self, effect: Effect<'_, H>);

    /// 64 random bits for ids that must never meet again. Deterministic in the simulator.
    fn random(&mut self) -> u64;
}
