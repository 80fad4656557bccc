// SPDX-License-Identifier: GPL-2.0-only

//! The generic netlink family: operations and attribute policies are built from the command table of
//! `weft_uapi::netlink`, requests arrive at a [`Handler`].
//!
//! What is checked before a handler runs, in this order: the command is in the table, the sender has CAP_NET_ADMIN in
//! the initial user namespace if it changes something, the attributes are well-formed and belong to the command (all by
//! the generic netlink core), the sender has CAP_SYS_ADMIN there, too, if the command opens disks.

mod arguments;
mod message;
mod policy;

pub(crate) use arguments::Arguments;
pub(crate) use message::{DumpPosition, DumpWriter, Notification, Reply};

use crate::sys::{bindings, module::THIS_MODULE};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use kernel::{
    error::to_result,
    ffi::{c_char, c_int},
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
};
use policy::Policies;
use weft_uapi::netlink::{self, Command, CommandSpec};
use weft_uapi::refusal::Refusal;
use weft_uapi::version::NETLINK_VERSION;

/// Who answers requests. Called in the sender's process context, in parallel; other families' registrations wait
/// for it: never wait for a disk, the daemon or a peer here.
pub(crate) trait Handler: Send + Sync + 'static {
    /// A request that is no dump. `reply` may be kept and sent later.
    fn on_command(&self, spec: &'static CommandSpec, arguments: &Arguments<'_>, reply: Reply);

    /// Continues a dump: writes records until one does not fit (then `writer` says `EMSGSIZE`, to be passed on) or
    /// until there is none. `position` starts as zeros and keeps its value from call to call.
    fn on_dump(
        &self,
        spec: &'static CommandSpec,
        arguments: &Arguments<'_>,
        position: &mut DumpPosition,
        writer: &mut DumpWriter<'_>,
    ) -> Result;
}

/// The family and who handles it; there is one for the module.
///
/// # Invariants
/// `raw` and `handler` are written by the one [`Registration`] while `stage` is [`STARTING`], before the family is
/// registered; and `handler` once more after it is unregistered.
struct Family {
    stage: Atomic<u32>,
    raw: UnsafeCell<bindings::genl_family>,
    handler: UnsafeCell<Option<Arc<dyn Handler>>>,
}

/// Values of [`Family::stage`], which only grows: a module registers its family once.
const NEW: u32 = 0;
const STARTING: u32 = 1;
const REGISTERED: u32 = 2;
const GONE: u32 = 3;

// SAFETY: By the type's invariant, shared access is read-only while several threads have it.
unsafe impl Sync for Family {}

static FAMILY: Family = Family {
    stage: Atomic::new(NEW),
    // SAFETY: All zeros is a valid value of this C type.
    raw: UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() }),
    handler: UnsafeCell::new(None),
};

/// The registered family. Dropping it waits for running handlers and removes it; a reply that is still kept by
/// somebody may be sent later.
pub(crate) struct Registration {
    operations: KVec<bindings::genl_ops>,
    groups: KVec<bindings::genl_multicast_group>,
    _policies: Policies,
}

// SAFETY: The raw pointers within point to memory that the registration itself owns, and is never written.
unsafe impl Send for Registration {}
// SAFETY: There are no methods on `&self`.
unsafe impl Sync for Registration {}

impl Registration {
    /// Builds the family from the command table and registers it. May sleep. Fails with `EBUSY` when called again.
    pub(crate) fn new(handler: Arc<dyn Handler>) -> Result<Self> {
        if FAMILY.stage.cmpxchg(NEW, STARTING, ordering::Full).is_err() {
            return Err(EBUSY);
        }
        let registration = Self::build()?;
        // SAFETY: This thread alone brought the stage to STARTING, so it may write, by the invariant of `Family`.
        unsafe {
            *FAMILY.handler.get() = Some(handler);
            *FAMILY.raw.get() = registration.raw_family();
        }
        // SAFETY: The family and what it points to stay where they are until it is unregistered by `drop`.
        to_result(unsafe { bindings::genl_register_family(FAMILY.raw.get()) })?;
        FAMILY.stage.store(REGISTERED, ordering::Release);
        Ok(registration)
    }

    fn build() -> Result<Self> {
        let policies = Policies::new()?;
        let mut operations = KVec::with_capacity(netlink::COMMANDS.len(), GFP_KERNEL)?;
        for (index, spec) in netlink::COMMANDS.iter().enumerate() {
            operations.push(operation(spec, policies.of(index)), GFP_KERNEL)?;
        }
        let mut groups = KVec::with_capacity(1, GFP_KERNEL)?;
        groups.push(
            bindings::genl_multicast_group {
                name: EVENTS_GROUP,
                flags: 0,
            },
            GFP_KERNEL,
        )?;
        Ok(Self {
            operations,
            groups,
            _policies: policies,
        })
    }

    fn raw_family(&self) -> bindings::genl_family {
        let mut raw = bindings::genl_family {
            name: FAMILY_NAME,
            version: NETLINK_VERSION.into(),
            maxattr: netlink::ATTRIBUTE_MAX,
            n_ops: self.operations.len() as u8,
            n_mcgrps: self.groups.len() as u8,
            // All commands are validated strictly.
            resv_start_op: 0,
            ops: self.operations.as_ptr(),
            mcgrps: self.groups.as_ptr(),
            module: THIS_MODULE,
            ..Default::default()
        };
        raw.set_netnsok(1);
        raw.set_parallel_ops(1);
        raw
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        FAMILY.stage.store(GONE, ordering::Release);
        // SAFETY: The family is initialised; it says ENOENT if its registration had failed.
        let _ = unsafe { bindings::genl_unregister_family(FAMILY.raw.get()) };
        // SAFETY: No handler runs any more, so this thread alone may write, by the invariant of `Family`.
        unsafe { *FAMILY.handler.get() = None };
    }
}

const _: () = assert!(netlink::COMMANDS.len() <= u8::MAX as usize);

fn operation(spec: &CommandSpec, policy: &[bindings::nla_policy]) -> bindings::genl_ops {
    bindings::genl_ops {
        doit: if spec.dump { None } else { Some(doit) },
        dumpit: if spec.dump { Some(dumpit) } else { None },
        policy: policy.as_ptr(),
        maxattr: netlink::ATTRIBUTE_MAX,
        cmd: spec.command as u8,
        flags: if spec.mutates {
            bindings::GENL_ADMIN_PERM as u8
        } else {
            0
        },
        ..Default::default()
    }
}

const FAMILY_NAME: Name = c_name(netlink::FAMILY);
const EVENTS_GROUP: Name = c_name(netlink::EVENTS_GROUP);

/// A name as netlink wants it.
type Name = [c_char; bindings::GENL_NAMSIZ as usize];

/// A short name with zeros behind it. For constants only: a name that is too long does not compile.
const fn c_name(name: &str) -> Name {
    let mut padded = [0; bindings::GENL_NAMSIZ as usize];
    assert!(name.len() < padded.len());
    let mut index = 0;
    while index < name.len() {
        padded[index] = name.as_bytes()[index] as c_char;
        index += 1;
    }
    padded
}

/// The handler, while the family is registered.
///
/// # Safety
/// The caller is a callback of the family.
unsafe fn handler<'a>() -> Option<&'a dyn Handler> {
    // SAFETY: The registration writes the handler before and after any callback, by the invariant of `Family`.
    unsafe { (*FAMILY.handler.get()).as_deref() }
}

/// What the core answers itself to a command without a row.
const NO_SUCH_COMMAND: c_int = -(bindings::EOPNOTSUPP as c_int);

fn spec_of(command: u8) -> Option<&'static CommandSpec> {
    netlink::spec(Command::from_number(command.into())?)
}

/// # Safety
/// The core calls it for a request of the family that passed its checks.
unsafe extern "C" fn doit(
    request: *mut bindings::sk_buff,
    info: *mut bindings::genl_info,
) -> c_int {
    // SAFETY: The core passes a valid request whose attributes are parsed.
    let (info, handler) = unsafe { (&*info, handler()) };
    // SAFETY: As above.
    let (command, arguments) = unsafe { ((*info.genlhdr).cmd, Arguments::from_raw(info)) };
    let (Some(handler), Some(spec)) = (handler, spec_of(command)) else {
        return NO_SUCH_COMMAND;
    };
    let is_permitted = !spec.opens_disks || {
        // SAFETY: The core passes the buffer with the request.
        unsafe { bindings::netlink_capable(request, bindings::WEFT_CAP_SYS_ADMIN) }
    };
    match Reply::new(info, command) {
        Ok(reply) => {
            if is_permitted {
                handler.on_command(spec, &arguments, reply);
            } else {
                let refusal = Refusal::NotPermitted;
                reply.refuse(refusal, format_args!("{}", refusal.text()));
            }
            // The reply is the answer: this keeps the core from adding an acknowledgement of its own.
            EINTR.to_errno()
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
/// The core calls it for a dump of the family, with the buffer to fill.
unsafe extern "C" fn dumpit(
    skb: *mut bindings::sk_buff,
    callback: *mut bindings::netlink_callback,
) -> c_int {
    // SAFETY: The core passes a valid callback of a dump of this family.
    let (info, handler) = unsafe { (&*bindings::weft_genl_info_dump(callback), handler()) };
    // SAFETY: As above.
    let (command, arguments) = unsafe { ((*info.genlhdr).cmd, Arguments::from_raw(info)) };
    let (Some(handler), Some(spec)) = (handler, spec_of(command)) else {
        return NO_SUCH_COMMAND;
    };
    // SAFETY: The dump owns its context, which is zeroed when it starts, and aligned like its `args`.
    let position = unsafe { &mut *(&raw mut (*callback).__bindgen_anon_1).cast::<DumpPosition>() };
    // SAFETY: `skb` is the message buffer of this dump, for the duration of the call.
    let mut writer = unsafe { DumpWriter::new(skb, info, command) };
    match handler.on_dump(spec, &arguments, position, &mut writer) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}
