// SPDX-License-Identifier: GPL-2.0-only
//! QEMU processes: their command line, how they share descriptors with us, and
//! that none of them outlives us.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{mpsc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{fcntl, FcntlArg, FdFlag},
    sys::{prctl, signal::Signal},
};

use crate::{
    files::{cache, Boot},
    template,
    wait::Deadline,
    wire::PORT_NAME,
};

/// The program that runs machines.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// Everything the kernel says goes to the console; an oops ends the machine. Clocks
/// and timers of a virtual machine are fine, but a busy host fails their tests;
/// tests of ciphers only cost time.
const KERNEL_PARAMETERS: &str = "console=ttyS0 earlyprintk=ttyS0 panic=-1 oops=panic \
    mitigations=off net.ifnames=0 no_timer_check tsc=reliable cryptomgr.notests=1 \
    rcupdate.rcu_cpu_stall_timeout=120";
/// How long the probe of the host's virtualisation may take; it needs a second.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hardware {
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u32,
}

/// A QEMU command line that grows.
pub(crate) struct Qemu {
    command: Command,
    /// Our descriptors that QEMU inherits under the same numbers.
    shared: Vec<OwnedFd>,
}

impl Qemu {
    /// A machine that boots `boot` with these parameters.
    fn new(accelerator: &str, hardware: &Hardware, boot: &Boot, parameters: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-machine", "q35"])
            .args(["-m", &format!("{}M", hardware.memory_mib)])
            .args(["-smp", &hardware.vcpus.to_string()])
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initramfs)
            .args(["-append", parameters])
            .stdin(Stdio::null());
        match accelerator {
            "kvm" => command.args(["-accel", "kvm", "-cpu", "host"]),
            // One thread for all processors of a machine. With one for each, code that a kernel changes is not always seen by
            // the others, and now and then a processor's timer stands still for good.
            _ => command.args(["-accel", "tcg,thread=single", "-cpu", "max"]),
        };
        Qemu {
            command,
            shared: Vec::new(),
        }
    }

    /// A machine that gets as far as waiting for its payload.
    pub(crate) fn blank(hardware: &Hardware, boot: &Boot) -> Result<Self> {
        let mut qemu = Qemu::new(accelerator(boot)?, hardware, boot, KERNEL_PARAMETERS);
        // Tells a kernel that goes on from a template to think of new random numbers.
        qemu.option("-device", "vmgenid,guid=auto");
        qemu.read_only_disk("image", &boot.image);
        Ok(qemu)
    }

    /// A test machine on the best accelerator that works here.
    pub(crate) fn machine(hardware: &Hardware, boot: &Boot) -> Result<Self> {
        let mut qemu = Qemu::blank(hardware, boot)?;
        if accelerator(boot)? == "tcg" {
            let template = template::of(hardware, boot)?;
            qemu.option("-incoming", &format!("file:{}", template.display()));
        }
        qemu.option("-device", "virtio-rng-pci");
        Ok(qemu)
    }

    /// All that distinguishes the machine so far from another one, as text.
    pub(crate) fn description(&self) -> String {
        format!("{:?}", self.command)
    }

    /// What the machine waits for: an archive with all that is ours.
    pub(crate) fn payload(&mut self, archive: &Path) {
        self.read_only_disk("payload", archive);
    }

    fn read_only_disk(&mut self, serial: &str, file: &Path) {
        let file = file.display();
        self.option(
            "-blockdev",
            &format!("driver=file,node-name={serial},read-only=on,filename={file}"),
        );
        self.option(
            "-device",
            &format!("virtio-blk-pci,drive={serial},serial={serial}"),
        );
    }

    /// Control of QEMU itself.
    pub(crate) fn monitor(&mut self, stream: impl Into<OwnedFd>) {
        let fd = self.share(stream);
        self.option("-chardev", &format!("socket,id=monitor,fd={fd}"));
        self.option("-mon", "chardev=monitor,mode=control");
    }

    /// Appends the serial console to a file.
    pub(crate) fn console(&mut self, log: &Path) {
        let chardev = format!("file,id=console,append=on,path={}", log.display());
        self.option("-chardev", &chardev);
        self.option("-serial", "chardev:console");
    }

    pub(crate) fn agent_port(&mut self, stream: impl Into<OwnedFd>) {
        let fd = self.share(stream);
        self.option("-chardev", &format!("socket,id=agent,fd={fd}"));
        self.option("-device", "virtio-serial-pci");
        self.option(
            "-device",
            &format!("virtserialport,chardev=agent,name={PORT_NAME}"),
        );
    }

    pub(crate) fn network(&mut self, stream: impl Into<OwnedFd>, mac: &str) {
        let fd = self.share(stream);
        self.option(
            "-netdev",
            &format!("stream,id=net,addr.type=fd,addr.str={fd}"),
        );
        self.option(
            "-device",
            &format!("virtio-net-pci,netdev=net,mac={mac},romfile="),
        );
    }

    /// A disk behind an NBD connection; errors go to the guest.
    pub(crate) fn disk(&mut self, stream: impl Into<OwnedFd>, serial: &str, block_len: u32) {
        let fd = self.share(stream);
        self.option(
            "-blockdev",
            &format!("driver=nbd,node-name={serial},discard=unmap,server.type=fd,server.str={fd}"),
        );
        self.option(
            "-device",
            &format!(
                "virtio-blk-pci,drive={serial},serial={serial},werror=report,rerror=report,\
                 logical_block_size={block_len},physical_block_size={block_len}"
            ),
        );
    }

    fn option(&mut self, name: &str, value: &str) {
        self.command.arg(name).arg(value);
    }

    fn share(&mut self, stream: impl Into<OwnedFd>) -> i32 {
        let fd = stream.into();
        let number = fd.as_raw_fd();
        self.shared.push(fd);
        number
    }

    /// Starts the process; what it says goes to `log`.
    pub(crate) fn start(mut self, log: &Path) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        self.command.stdout(log.try_clone()?).stderr(log);
        spawn_for_life(self).context("starting qemu-system-x86_64")
    }
}

/// What happens in a new process before it becomes QEMU.
fn prepare_child(shared: &[OwnedFd]) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    for fd in shared {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// Spawns a process that dies with this one. The kernel ties it to the spawning
/// *thread*, so one that never ends does it.
fn spawn_for_life(qemu: Qemu) -> io::Result<Child> {
    type Job = (Qemu, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (qemu, answer) in jobs {
                // Whoever asked is waiting for it.
                let _ = answer.send(spawn(qemu));
            }
        });
        Mutex::new(sender)
    });
    let (answer, result) = mpsc::channel();
    let sender = spawner.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = || io::Error::other("the spawner thread is gone");
    sender.send((qemu, answer)).map_err(|_| lost())?;
    drop(sender);
    result.recv().map_err(|_| lost())?
}

fn spawn(qemu: Qemu) -> io::Result<Child> {
    let Qemu {
        mut command,
        shared,
    } = qemu;
    let prepare = move || prepare_child(&shared);
    // SAFETY: `prepare_child` only makes system calls on descriptors that it owns:
    // no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// "kvm" where a machine really boots with it, else "tcg". Some hosts have
/// /dev/kvm and guests that hang, so this boots one and remembers the outcome.
pub(crate) fn accelerator(boot: &Boot) -> Result<&'static str> {
    static ANSWER: OnceLock<&str> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return Ok(answer);
    }
    let memory = cache()?.join("accelerator");
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let known = fs::read_to_string(&memory).unwrap_or_default();
    let works = match known.strip_prefix(&host) {
        Some(answer) => answer == "kvm",
        None => kvm_works(boot)?,
    };
    let answer = if works { "kvm" } else { "tcg" };
    fs::write(&memory, format!("{host}{answer}"))?;
    Ok(ANSWER.get_or_init(|| answer))
}

/// Boots a machine that switches itself off as soon as it can.
fn kvm_works(boot: &Boot) -> Result<bool> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    eprintln!("trying whether machines run on /dev/kvm (once, at most {PROBE_LIMIT:?})");
    let hardware = Hardware {
        memory_mib: 256,
        vcpus: 2,
    };
    let parameters = "rdinit=/bin/busybox quiet -- poweroff -f";
    let qemu = Qemu::new("kvm", &hardware, boot, parameters);
    let mut child = qemu.start(Path::new("/dev/null"))?;
    let deadline = Deadline::after(PROBE_LIMIT);
    while !deadline.is_over() {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
