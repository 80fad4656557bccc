// SPDX-License-Identifier: GPL-2.0-only

//! The two links of a session.

use weft_uapi::control::{KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META};
use weft_uapi::peer::Channel;

/// Which link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LinkKind {
    /// Bulk data.
    Data,
    /// Acknowledgements and other small messages.
    Meta,
}

impl LinkKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Data, Self::Meta];

    /// The network channel that carries it.
    pub const fn channel(self) -> Channel {
        match self {
            Self::Data => Channel::Data,
            Self::Meta => Channel::Meta,
        }
    }

    /// The link that a channel carries; `None` for control.
    pub const fn of_channel(channel: Channel) -> Option<Self> {
        match channel {
            Channel::Control => None,
            Channel::Data => Some(Self::Data),
            Channel::Meta => Some(Self::Meta),
        }
    }

    /// The module's message that offers it.
    pub const fn message(self) -> u32 {
        match self {
            Self::Data => KERN_HANDSHAKE_DATA,
            Self::Meta => KERN_HANDSHAKE_META,
        }
    }

    /// The link that a message of the module offers.
    pub fn of_message(kind: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|link| link.message() == kind)
    }

    /// The name in logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Meta => "meta",
        }
    }
}

/// One value for each link of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByKind<T> {
    /// Of the data link.
    pub data: T,
    /// Of the meta link.
    pub meta: T,
}

impl<T> ByKind<T> {
    /// Makes each value.
    ///
    /// # Errors
    /// The first one.
    pub fn try_new<E>(mut make: impl FnMut(LinkKind) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            data: make(LinkKind::Data)?,
            meta: make(LinkKind::Meta)?,
        })
    }

    /// The value of one link.
    pub fn get(&self, kind: LinkKind) -> &T {
        match kind {
            LinkKind::Data => &self.data,
            LinkKind::Meta => &self.meta,
        }
    }

    /// The value of one link, to change it.
    pub fn get_mut(&mut self, kind: LinkKind) -> &mut T {
        match kind {
            LinkKind::Data => &mut self.data,
            LinkKind::Meta => &mut self.meta,
        }
    }

    /// Both values.
    pub fn into_array(self) -> [T; 2] {
        [self.data, self.meta]
    }
}

impl<T> ByKind<Option<T>> {
    /// Both values when both are there.
    ///
    /// # Errors
    /// Itself unchanged when one is missing.
    pub fn complete(self) -> Result<ByKind<T>, Self> {
        match self {
            Self {
                data: Some(data),
                meta: Some(meta),
            } => Ok(ByKind { data, meta }),
            partial => Err(partial),
        }
    }
}
