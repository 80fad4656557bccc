// SPDX-License-Identifier: GPL-2.0-only

//! The control device `/dev/weft`: where the daemon learns of links, accepts them, and tells which nodes it reaches.
//!
//! It has one owner, the first opener until its descriptor is closed everywhere; the links that the owner accepted end
//! with it. Messages and errors are those of `weft_uapi::control`. Never blocks.

use crate::links::{Answer, Message, Offers};
use crate::sys::file::{FileOps, PollQueue, Readiness};
use crate::sys::misc::{DeviceFile, MiscDevice};
use kernel::{
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{Arc, ArcBorrow},
    uaccess::{UserPtr, UserSlice},
};
use weft_uapi::control::{
    name_of, Fence, LinkAccept, Memory, NodeConnState, FENCED, KEPT, LINK_ACCEPT,
    MESSAGE_BYTES_MAX, RECALLED,
};
use zerocopy::FromBytes;

/// The registered device.
pub(crate) type ControlDevice = MiscDevice<ControlFile>;

/// Creates `/dev/weft`.
pub(crate) fn register(offers: Arc<Offers>) -> Result<Pin<KBox<ControlDevice>>> {
    KBox::pin_init(ControlDevice::register(c"weft", offers), GFP_KERNEL)
}

/// The control device as its owner has it open.
pub(crate) struct ControlFile {
    offers: Arc<Offers>,
}

impl DeviceFile for ControlFile {
    type Device = Offers;

    fn open(offers: ArcBorrow<'_, Offers>) -> Result<Arc<Self>> {
        let offers = offers.into();
        let file = Arc::new(Self { offers }, GFP_KERNEL)?;
        let pid = current!().pid();
        file.offers.open(pid).map_err(|owner| {
            pr_info!(
                "process {} may not open /dev/weft: process {} has it open\n",
                pid,
                owner
            );
            EBUSY
        })?;
        Ok(file)
    }

    fn read(&self, to: &mut IovIterDest<'_>) -> Result<usize> {
        if to.len() < Message::BYTES_MAX {
            return Err(EINVAL);
        }
        let message = self.offers.take_message().ok_or(EAGAIN)?;
        // Without a lock: the reader's memory may be long in coming.
        let bytes = message.as_bytes();
        if to.copy_to_iter(bytes) < bytes.len() {
            return Err(EFAULT);
        }
        Ok(bytes.len())
    }

    fn write(&self, from: &mut IovIterSource<'_>) -> Result<usize> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let length = from.len();
        let bytes = buffer.get_mut(..length).ok_or(EINVAL)?;
        if from.copy_from_iter(bytes) < length {
            return Err(EFAULT);
        }
        if let Some(answer) = Memory::parse(bytes, &[RECALLED, KEPT]) {
            let name = name_of(&answer.resource).ok_or(EINVAL)?;
            self.offers.answered(name, &Answer::Memory(answer));
            return Ok(length);
        }
        if let Some(answer) = Fence::parse(bytes, FENCED) {
            let name = name_of(&answer.resource).ok_or(EINVAL)?;
            self.offers.answered(name, &Answer::Fence(answer));
            return Ok(length);
        }
        let message = NodeConnState::parse(bytes).ok_or(EINVAL)?;
        let name = name_of(&message.resource).ok_or(EINVAL)?;
        self.offers
            .node_conn_state(&message, Some(name).filter(|name| !name.is_empty()));
        Ok(length)
    }
}

impl FileOps for ControlFile {
    fn poll_queue(&self) -> &PollQueue {
        self.offers.poll_queue()
    }

    fn readiness(&self) -> Readiness {
        Readiness::OUT.and(Readiness::IN.when(self.offers.has_message()))
    }

    fn ioctl(&self, command: u32, argument: UserPtr) -> Result<usize> {
        match command {
            LINK_ACCEPT => {
                let mut bytes = [0; size_of::<LinkAccept>()];
                UserSlice::new(argument, bytes.len())
                    .reader()
                    .read_slice(&mut bytes)?;
                let request = LinkAccept::read_from_bytes(&bytes).map_err(|_| EINVAL)?;
                Ok(self.offers.accept(&request)? as usize)
            }
            _ => Err(ENOTTY),
        }
    }

    fn release(&self) {
        self.offers.close();
    }
}
