// SPDX-License-Identifier: GPL-2.0-only

//! Failures: refusals of commands, and error numbers that the kernel crate has no names for.

use crate::netlink::Answer;
use core::fmt::Arguments;
use kernel::{error::Error, str::CString};
use weft_engine::effect::Refused;
use weft_uapi::refusal::Refusal;

/// Why an action was not done. Like [`Refused`], but it can be kept.
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    detail: Option<CString>,
}

impl Failure {
    /// A refusal with what its sentence cannot say: the object and the numbers concerned.
    pub(crate) fn new(refusal: Refusal, detail: Arguments<'_>) -> Self {
        // Without memory the sentence has to do.
        Self {
            refusal,
            detail: CString::try_from_fmt(detail).ok(),
        }
    }

    /// The detail; empty if there is none.
    pub(crate) fn detail(&self) -> &str {
        self.detail
            .as_ref()
            .and_then(|detail| detail.to_str().ok())
            .unwrap_or("")
    }

    /// Gives it as the result of an action.
    pub(crate) fn give(&self, answer: Answer) {
        answer.give(Err(Refused {
            refusal: self.refusal,
            detail: format_args!("{}", self.detail()),
        }));
    }
}

impl From<Refused<'_>> for Failure {
    fn from(refused: Refused<'_>) -> Self {
        Self::new(refused.refusal, refused.detail)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            detail: None,
        }
    }
}

/// The operation is not supported.
pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-95)
}

/// What programs take for "there is no disk here that could be used now".
pub(crate) fn emediumtype() -> Error {
    Error::from_errno(-124)
}
