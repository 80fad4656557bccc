// SPDX-License-Identifier: GPL-2.0-only

//! Messages to userspace: replies, parts of dumps, notifications.

use super::{FAMILY, REGISTERED};
use crate::sys::bindings;
use core::{fmt, marker::PhantomData, mem::ManuallyDrop, ptr::NonNull};
use kernel::{
    error::to_result,
    ffi::{c_int, c_void},
    prelude::*,
    sync::atomic::ordering,
};
use weft_uapi::limits::PATH_MAX;
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;
use weft_uapi::status::{EventKind, RecordKind};

/// Room for the attributes of a reply: a code and a text with their headers.
const REPLY_BYTES: usize = 16 + TEXT_BYTES_MAX + 16;

/// Longest text, with its final NUL.
const TEXT_BYTES_MAX: usize = PATH_MAX + 1;

/// A message under construction in a buffer of its own.
///
/// # Invariants
/// `skb` is owned, `header` is the position in it that `genlmsg_put` returned.
struct Message {
    skb: NonNull<bindings::sk_buff>,
    header: *mut c_void,
}

impl Message {
    /// A message with room for attributes of `bytes` bytes, headers included.
    fn new(bytes: usize, gfp: u32, portid: u32, seq: u32, command: u8) -> Result<Self> {
        // SAFETY: No requirements.
        let skb = NonNull::new(unsafe { bindings::weft_genlmsg_new(bytes, gfp) }).ok_or(ENOMEM)?;
        // SAFETY: The buffer is new. Whoever asks for a message does so in a callback of the family or after it was
        // registered, so the family is initialised.
        let header = unsafe {
            bindings::genlmsg_put(skb.as_ptr(), portid, seq, FAMILY.raw.get(), 0, command)
        };
        // INVARIANT: As the type asks; the buffer has room for the headers beyond `bytes`.
        Ok(Self { skb, header })
    }

    fn put(&mut self, attribute: Attribute, bytes: &[u8]) -> Result {
        // SAFETY: By the type's invariant.
        unsafe { put(self.skb.as_ptr(), attribute, bytes) }
    }

    /// The finished buffer, which the caller takes over.
    fn finish(self) -> *mut bindings::sk_buff {
        let message = ManuallyDrop::new(self);
        // SAFETY: By the type's invariant.
        unsafe { bindings::weft_genlmsg_end(message.skb.as_ptr(), message.header) };
        message.skb.as_ptr()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the buffer is owned.
        unsafe { bindings::weft_kfree_skb(self.skb.as_ptr()) };
    }
}

/// The one answer to a request.
///
/// It has all memory that it needs, may be kept, and may be sent in any process context. If it is dropped unsent,
/// the sender is told [`Refusal::Interrupted`].
///
/// # Invariants
/// `net` is a counted reference, given back by `drop`.
pub(crate) struct Reply {
    message: Option<Message>,
    net: *mut bindings::net,
    portid: u32,
}

// SAFETY: A socket buffer and a reference to a network namespace belong to no thread.
unsafe impl Send for Reply {}
// SAFETY: There are no methods on `&self`.
unsafe impl Sync for Reply {}

impl Reply {
    pub(super) fn new(info: &bindings::genl_info, command: u8) -> Result<Self> {
        let message = Message::new(
            REPLY_BYTES,
            bindings::GFP_KERNEL,
            info.snd_portid,
            info.snd_seq,
            command,
        )?;
        // SAFETY: The request is valid, and with it its namespace. INVARIANT: This counts a reference.
        let net = unsafe { bindings::weft_genl_get_net(info) };
        Ok(Self {
            message: Some(message),
            net,
            portid: info.snd_portid,
        })
    }

    /// The command was carried out.
    pub(crate) fn done(mut self) {
        self.send(0, None);
    }

    /// The command was refused; `text` names the object and the cause.
    pub(crate) fn refuse(mut self, refusal: Refusal, text: fmt::Arguments<'_>) {
        self.send(refusal.number(), Some(text));
    }

    fn send(&mut self, code: u32, text: Option<fmt::Arguments<'_>>) {
        let Some(mut message) = self.message.take() else {
            return;
        };
        // Both fit in `REPLY_BYTES`.
        let _ = message.put(Attribute::Code, &code.to_ne_bytes());
        if let Some(text) = text {
            let _ = message.put(Attribute::Text, Text::new(text).as_bytes());
        }
        // SAFETY: `net` is valid by the type's invariant; the buffer is given away. A sender that is gone gets none.
        unsafe { bindings::weft_genlmsg_unicast(self.net, message.finish(), self.portid) };
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(
            Refusal::Interrupted.number(),
            Some(format_args!("{}", Refusal::Interrupted.text())),
        );
        // SAFETY: By the type's invariant.
        unsafe { bindings::weft_put_net(self.net) };
    }
}

/// What a dump remembers between two calls; zeros at its start. Its meaning is the handler's.
#[repr(C)]
pub(crate) struct DumpPosition(pub(crate) [u64; 4]);

const _: () = assert!(size_of::<DumpPosition>() <= bindings::NETLINK_CTX_SIZE as usize);

/// The buffer of one part of a dump.
///
/// # Invariants
/// `skb` is valid for `'a`.
pub(crate) struct DumpWriter<'a> {
    skb: *mut bindings::sk_buff,
    portid: u32,
    seq: u32,
    command: u8,
    _skb: PhantomData<&'a mut bindings::sk_buff>,
}

impl DumpWriter<'_> {
    /// # Safety
    /// `skb` is the buffer of a dump and nobody else uses it while the writer lives.
    pub(super) unsafe fn new(
        skb: *mut bindings::sk_buff,
        info: &bindings::genl_info,
        command: u8,
    ) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            skb,
            portid: info.snd_portid,
            seq: info.snd_seq,
            command,
            _skb: PhantomData,
        }
    }

    /// Refuses the dump in a message instead of records. `EMSGSIZE`: it does not fit, return and come again.
    pub(crate) fn refuse(&mut self, refusal: Refusal, text: fmt::Arguments<'_>) -> Result {
        let (code, text) = (refusal.number().to_ne_bytes(), Text::new(text));
        self.message([(Attribute::Code, &code), (Attribute::Text, text.as_bytes())])
    }

    /// Adds one record as a message of its own. `EMSGSIZE`: it does not fit, return and come again.
    pub(crate) fn record(&mut self, kind: RecordKind, record: &[u8]) -> Result {
        let kind = kind.number().to_ne_bytes();
        self.message([(Attribute::RecordKind, &kind), (Attribute::Record, record)])
    }

    fn message(&mut self, attributes: [(Attribute, &[u8]); 2]) -> Result {
        let (skb, flags) = (self.skb, bindings::NLM_F_MULTI as c_int);
        // SAFETY: The buffer is valid by the type's invariant, the family is registered while it is dumped.
        let header = unsafe {
            bindings::genlmsg_put(
                skb,
                self.portid,
                self.seq,
                FAMILY.raw.get(),
                flags,
                self.command,
            )
        };
        if header.is_null() {
            return Err(EMSGSIZE);
        }
        let mut attributes = attributes.into_iter();
        let put = attributes.try_for_each(|(attribute, bytes)| {
            // SAFETY: The buffer is valid, by the type's invariant, and its last message unfinished.
            unsafe { put(skb, attribute, bytes) }
        });
        match put {
            // SAFETY: `header` is what `genlmsg_put` returned for this buffer.
            Ok(()) => unsafe { bindings::weft_genlmsg_end(skb, header) },
            // SAFETY: As above.
            Err(_) => unsafe { bindings::weft_genlmsg_cancel(skb, header) },
        }
        put
    }
}

/// An event for all listeners of the multicast group.
pub(crate) struct Notification(Message);

impl Notification {
    /// A message about one record. Does not wait for I/O. Fails with `ENODEV` when the family is not registered.
    pub(crate) fn new(
        seq: u64,
        event: EventKind,
        kind: RecordKind,
        record: &[u8],
        text: Option<&str>,
    ) -> Result<Self> {
        if FAMILY.stage.load(ordering::Acquire) != REGISTERED {
            return Err(ENODEV);
        }
        let bytes = REPLY_BYTES.saturating_add(32).saturating_add(record.len());
        let mut message = Message::new(bytes, bindings::WEFT_GFP_NOIO, 0, 0, Command::Event as u8)?;
        message.put(Attribute::EventSeq, &seq.to_ne_bytes())?;
        message.put(Attribute::EventKind, &event.number().to_ne_bytes())?;
        message.put(Attribute::RecordKind, &kind.number().to_ne_bytes())?;
        message.put(Attribute::Record, record)?;
        if let Some(text) = text {
            message.put(
                Attribute::Text,
                Text::new(format_args!("{text}")).as_bytes(),
            )?;
        }
        Ok(Self(message))
    }

    /// Sends it to the listeners in all network namespaces; one whose queue is full is told by its socket.
    pub(crate) fn send(self) {
        // SAFETY: The family was registered when the message was made and is not written since; the buffer is given
        // away.
        let _nobody_listens =
            unsafe { bindings::genlmsg_multicast_allns(FAMILY.raw.get(), self.0.finish(), 0, 0) };
    }
}

/// # Safety
/// `skb` is a valid buffer with an unfinished message at its end, used by nobody else.
unsafe fn put(skb: *mut bindings::sk_buff, attribute: Attribute, bytes: &[u8]) -> Result {
    let length = c_int::try_from(bytes.len())?;
    // SAFETY: By the caller's promise; `bytes` is readable.
    to_result(unsafe { bindings::nla_put(skb, attribute as c_int, length, bytes.as_ptr().cast()) })
}

/// A text with its final NUL and without blanks before it, cut at a character's boundary if it is too long.
struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    used: usize,
}

impl Text {
    fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self {
            bytes: [0; TEXT_BYTES_MAX],
            used: 0,
        };
        // Fails only when the text is full; what fits is kept.
        let _ = fmt::Write::write_fmt(&mut text, arguments);
        let blanks = text
            .bytes
            .iter()
            .take(text.used)
            .rev()
            .take_while(|&&byte| byte == b' ');
        text.used = text.used.saturating_sub(blanks.count());
        if let Some(end) = text.bytes.get_mut(text.used) {
            *end = 0;
        }
        text
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..=self.used).unwrap_or(&[0])
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        // The last byte stays zero.
        let room = TEXT_BYTES_MAX.saturating_sub(1).saturating_sub(self.used);
        let mut length = part.len().min(room);
        while !part.is_char_boundary(length) {
            length = length.saturating_sub(1);
        }
        let to = self
            .bytes
            .get_mut(self.used..)
            .and_then(|free| free.get_mut(..length))
            .ok_or(fmt::Error)?;
        to.copy_from_slice(part.as_bytes().get(..length).ok_or(fmt::Error)?);
        self.used = self.used.saturating_add(length);
        if length == part.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}
