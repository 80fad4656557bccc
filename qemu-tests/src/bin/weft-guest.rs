// SPDX-License-Identifier: GPL-2.0-only
//! The agent in a test machine: runs what the harness asks for over a virtio
//! serial port, any number of commands at a time, and streams back their output.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        mpsc::{self, Receiver, Sender},
        Arc, Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{fcntl, FcntlArg, OFlag},
    libc,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        reboot::{reboot, RebootMode},
        signal::{killpg, Signal},
    },
    unistd::Pid,
};
use weft_qemu_tests::wire::{self, Message, Start, PAYLOAD_LEN_MAX, PORT_NAME};

fn main() -> io::Result<()> {
    let mut port = open_port()?;
    let agent = Arc::new(Agent {
        port: Mutex::new(port.try_clone()?),
        running: Mutex::new(HashMap::new()),
    });
    agent.tell(0, &Message::Ready);
    loop {
        let (id, message) = wire::receive(&mut port)?;
        agent.on_message(id, message);
    }
}

/// How long the host may take to name the port.
const PORT_DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked for meanwhile: sysfs tells nobody of a new name.
const PORT_INTERVAL: Duration = Duration::from_millis(20);

/// Opens the port; it gets its name from the host, some time after its device has been found.
fn open_port() -> io::Result<File> {
    let deadline = Instant::now() + PORT_DEADLINE;
    loop {
        if let Some(device) = find_port()? {
            return File::options().read(true).write(true).open(device);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, PORT_NAME));
        }
        thread::sleep(PORT_INTERVAL);
    }
}

/// Finds the port by its name; there is no udev here that would do it.
fn find_port() -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT_NAME {
            return Ok(Some(PathBuf::from("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

struct Agent {
    port: Mutex<File>,
    running: Mutex<HashMap<u32, Running>>,
}

/// How to reach a command that runs.
struct Running {
    group: Pid,
    stdin: Sender<Vec<u8>>,
}

impl Agent {
    /// The harness is gone for good if this fails, and the machine with it.
    fn tell(&self, id: u32, message: &Message) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = wire::send(&mut *port, id, message) {
            eprintln!("weft-guest: cannot answer: {error}");
        }
    }

    fn on_message(self: &Arc<Self>, id: u32, message: Message) {
        match message {
            Message::Start(start) => self.on_start(id, &start),
            Message::Stdin(bytes) => self.with_running(id, |running| {
                // A command that closed its input does not miss the rest.
                let _ = running.stdin.send(bytes);
            }),
            Message::Signal(number) => self.with_running(id, |running| {
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = killpg(running.group, signal);
                }
            }),
            Message::PowerOff => {
                nix::unistd::sync();
                let _ = reboot(RebootMode::RB_POWER_OFF);
            }
            answer => eprintln!("weft-guest: not for an agent: {answer:?}"),
        }
    }

    fn with_running(&self, id: u32, act: impl FnOnce(&Running)) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.get(&id) {
            act(running);
        }
    }

    fn on_start(self: &Arc<Self>, id: u32, start: &Start) {
        match spawn(start) {
            Ok(mut child) => {
                let (sender, receiver) = mpsc::channel();
                let stdin = child.stdin.take();
                let running = Running {
                    group: Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)),
                    stdin: sender,
                };
                self.running
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id, running);
                thread::spawn(move || feed(stdin, &receiver));
                let agent = Arc::clone(self);
                thread::spawn(move || agent.follow(id, child));
            }
            Err(error) => self.tell(id, &Message::Refused(error.to_string())),
        }
    }

    /// Forwards a command's output until it ends, then says how it ended.
    fn follow(&self, id: u32, mut child: Child) {
        let last = match self.stream(id, &mut child) {
            Ok(status) => Message::Exit(exit_code(status)),
            Err(error) => Message::Refused(error.to_string()),
        };
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        self.tell(id, &last);
    }

    /// A command has ended when its process has, even if something that it left
    /// behind still holds its output open.
    fn stream(&self, id: u32, child: &mut Child) -> io::Result<ExitStatus> {
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        for fd in [
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ] {
            fcntl(
                fd.ok_or(Errno::EBADF)?,
                FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
            )?;
        }
        let process = open_pidfd(child)?;
        loop {
            let ended = wait_for_news(&process, stdout.as_ref(), stderr.as_ref())?;
            self.drain(id, &mut stdout, Message::Stdout)?;
            self.drain(id, &mut stderr, Message::Stderr)?;
            if ended {
                return child.wait();
            }
        }
    }

    /// Sends what there is to read; forgets a pipe that is at its end.
    fn drain<P: Read>(
        &self,
        id: u32,
        pipe: &mut Option<P>,
        message: fn(Vec<u8>) -> Message,
    ) -> io::Result<()> {
        let mut buffer = vec![0; PAYLOAD_LEN_MAX];
        while let Some(open) = pipe {
            match open.read(&mut buffer) {
                Ok(0) => *pipe = None,
                Ok(len) => self.tell(id, &message(buffer[..len].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn spawn(start: &Start) -> io::Result<Child> {
    let (program, arguments) = start.argv.split_first().ok_or(Errno::EINVAL)?;
    Command::new(program)
        .args(arguments)
        .envs(start.env.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Writes to a command's input until it is closed from either side.
fn feed(stdin: Option<ChildStdin>, bytes: &Receiver<Vec<u8>>) {
    let Some(mut stdin) = stdin else { return };
    for chunk in bytes {
        if chunk.is_empty() || stdin.write_all(&chunk).is_err() {
            return;
        }
    }
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; the child is not reaped yet, so its
    // id names it.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for output or for the end of the process; tells whether it ended.
fn wait_for_news(
    process: &OwnedFd,
    stdout: Option<&ChildStdout>,
    stderr: Option<&ChildStderr>,
) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    fds.extend(stdout.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
    fds.extend(stderr.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[0].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    let signalled = status.signal().map(|signal| 128 + signal);
    status.code().or(signalled).unwrap_or(-1)
}
