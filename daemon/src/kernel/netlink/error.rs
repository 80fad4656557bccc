// SPDX-License-Identifier: GPL-2.0-only

//! Why a request to the module failed.

use nix::libc;
use std::fmt;
use std::io;
use weft_uapi::refusal::Refusal;

/// A refusal by the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Its number; [`Refused::refusal`] names it if this build knows it.
    pub code: u32,
    /// The module's own sentence; may be empty.
    pub text: String,
}

impl Refused {
    /// The refusal, if this build knows it.
    pub fn refusal(&self) -> Option<Refusal> {
        Refusal::from_number(self.code)
    }

    /// The cause, a full sentence.
    pub fn cause(&self) -> &str {
        let known = self.refusal().map(Refusal::text);
        match known {
            _ if !self.text.is_empty() => &self.text,
            Some(text) => text,
            None => "The module gave a reason that this version does not know.",
        }
    }
}

/// Why a request failed.
#[derive(Debug)]
pub enum NetlinkError {
    /// There is no family `weft`.
    ModuleMissing,
    /// The module understood the request and refused it.
    Refused(Refused),
    /// The netlink core refused the request before the module saw it.
    Core(io::Error, Option<String>),
    /// The socket failed.
    Io(io::Error),
    /// Messages were lost because they came faster than they were read.
    Overrun,
    /// The answer makes no sense.
    Malformed(&'static str),
}

impl NetlinkError {
    /// The refusal that this amounts to, if there is one: the netlink core's errors have their counterparts.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refused) => refused.refusal(),
            Self::Core(error, _) => match error.raw_os_error()? {
                libc::EPERM | libc::EACCES => Some(Refusal::NotPermitted),
                libc::EOPNOTSUPP => Some(Refusal::UnknownCommand),
                libc::EINVAL | libc::ERANGE => Some(Refusal::BadArgument),
                libc::ENOMEM => Some(Refusal::NoMemory),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the module refused for this reason.
    pub fn is(&self, refusal: Refusal) -> bool {
        self.refusal() == Some(refusal)
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ModuleMissing => f.write_str("the kernel module is not loaded"),
            Self::Refused(refused) => f.write_str(refused.cause()),
            Self::Core(error, None) => write!(f, "the kernel refused the request: {error}"),
            Self::Core(error, Some(text)) => {
                write!(f, "the kernel refused the request: {text} ({error})")
            }
            Self::Io(error) => write!(f, "netlink: {error}"),
            Self::Overrun => f.write_str("messages were lost because they came too fast"),
            Self::Malformed(why) => write!(f, "the module's answer makes no sense: {why}"),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOBUFS) => Self::Overrun,
            _ => Self::Io(error),
        }
    }
}
