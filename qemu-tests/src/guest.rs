// SPDX-License-Identifier: GPL-2.0-only
//! Commands in a machine: any number at a time, through the agent that runs
//! there ([`crate::wire`]). Everything is written to the machine's transcript.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use nix::sys::signal::Signal;

use crate::{
    wait::Deadline,
    wire::{self, Message, Start, PAYLOAD_LEN_MAX},
};

/// How long a command may take unless told otherwise; on a busy host that is much
/// longer than usual.
pub const USUAL_LIMIT: Duration = Duration::from_secs(180);
/// Characters of a command's output that the transcript keeps.
const TRANSCRIPT_LEN_MAX: usize = 4096;

/// A command to run in a machine.
#[derive(Clone, Debug)]
pub struct Command {
    start: Start,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Command {
    /// A program with its arguments.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Command {
            start: Start {
                argv: argv.into_iter().map(Into::into).collect(),
                env: Vec::new(),
            },
            stdin: Vec::new(),
            limit: USUAL_LIMIT,
        }
    }

    /// A bash script.
    pub fn shell(script: &str) -> Self {
        Command::new(["bash", "-c", script])
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.start.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it standard input; without it there is none.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may run; past that it is killed and counts as failed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start.argv.as_slice() {
            [shell, option, script] if shell == "bash" && option == "-c" => f.write_str(script),
            argv => f.write_str(&argv.join(" ")),
        }
    }
}

/// What a command has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without space at the end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without space at the end.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

/// The harness's end of one life of a machine.
pub(crate) struct Guest {
    name: String,
    stream: Mutex<UnixStream>,
    waiting: Arc<Mutex<HashMap<u32, Sender<Message>>>>,
    next_id: AtomicU32,
    transcript: Mutex<File>,
    born: Instant,
}

impl Guest {
    /// Talks over `stream`; answers arrive once the machine is up.
    pub(crate) fn new(name: &str, stream: UnixStream, transcript: &Path) -> Result<Arc<Self>> {
        let waiting = Arc::new(Mutex::new(HashMap::new()));
        let (incoming, dispatch) = (stream.try_clone()?, Arc::clone(&waiting));
        thread::spawn(move || receive_all(incoming, &dispatch));
        Ok(Arc::new(Guest {
            name: name.to_owned(),
            stream: Mutex::new(stream),
            waiting,
            next_id: AtomicU32::new(1),
            transcript: Mutex::new(File::options().create(true).append(true).open(transcript)?),
            born: Instant::now(),
        }))
    }

    /// Registers interest in messages about `id`, before anything causes them.
    fn listen(&self, id: u32) -> Receiver<Message> {
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).insert(id, sender);
        receiver
    }

    /// What the machine says about itself.
    pub(crate) fn listen_to_machine(&self) -> Receiver<Message> {
        self.listen(0)
    }

    pub(crate) fn power_off(&self) -> Result<()> {
        self.send(0, &Message::PowerOff)
    }

    /// Starts a command.
    pub(crate) fn spawn(self: &Arc<Self>, command: &Command) -> Result<Process> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let messages = self.listen(id);
        self.note(&format!("#{id} $ {command}"));
        self.send(id, &Message::Start(command.start.clone()))?;
        for chunk in command.stdin.chunks(PAYLOAD_LEN_MAX) {
            self.send(id, &Message::Stdin(chunk.to_vec()))?;
        }
        self.send(id, &Message::Stdin(Vec::new()))?;
        Ok(Process {
            guest: Arc::clone(self),
            title: command.to_string(),
            id,
            messages,
            output: Output::default(),
            ended: false,
        })
    }

    /// Runs a command to its end.
    pub(crate) fn run(self: &Arc<Self>, command: &Command) -> Result<Output> {
        let mut process = self.spawn(command)?;
        match process.wait(command.limit) {
            Ok(output) => Ok(output),
            Err(error) => {
                // The machine may be gone as well.
                let _ = process.signal(Signal::SIGKILL);
                Err(error)
            }
        }
    }

    fn send(&self, id: u32, message: &Message) -> Result<()> {
        wire::send(&mut *lock(&self.stream), id, message)
            .with_context(|| format!("{}: the machine is gone", self.name))
    }

    fn note(&self, text: &str) {
        let mut transcript = lock(&self.transcript);
        let at = self.born.elapsed().as_secs_f64();
        if let Err(error) = writeln!(transcript, "[{at:9.3}] {text}") {
            eprintln!("{}: transcript: {error}", self.name);
        }
    }

    fn note_output(&self, id: u32, output: &Output) {
        for text in [output.text(), output.error_text()] {
            let shown: String = text.chars().take(TRANSCRIPT_LEN_MAX).collect();
            for line in shown.lines() {
                self.note(&format!("#{id} | {line}"));
            }
        }
        self.note(&format!("#{id} exit {}", output.code));
    }
}

/// Hands messages to whoever waits for them until the machine is gone; then
/// nobody needs to wait any more.
fn receive_all(mut stream: UnixStream, waiting: &Mutex<HashMap<u32, Sender<Message>>>) {
    while let Ok((id, message)) = wire::receive(&mut stream) {
        let last = matches!(message, Message::Exit(_) | Message::Refused(_));
        let mut waiting = lock(waiting);
        if let Some(waiter) = waiting.get(&id) {
            // One that has stopped waiting misses nothing.
            let _ = waiter.send(message);
        }
        if last {
            waiting.remove(&id);
        }
    }
    lock(waiting).clear();
}

/// A command that runs in a machine, until it ends or the machine does.
pub struct Process {
    guest: Arc<Guest>,
    title: String,
    id: u32,
    messages: Receiver<Message>,
    output: Output,
    ended: bool,
}

impl Process {
    /// Waits for its end. May be called again after the time was too short.
    pub fn wait(&mut self, limit: Duration) -> Result<Output> {
        let deadline = Deadline::after(limit);
        while !self.ended {
            self.receive(deadline)?;
        }
        Ok(self.output.clone())
    }

    /// Waits until it has printed `text` on either output.
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Deadline::after(limit);
        while !self.has_printed(text) {
            ensure!(
                !self.ended,
                "{}: ended without printing {text:?}",
                self.describe()
            );
            self.receive(deadline)?;
        }
        Ok(())
    }

    /// Waits until it has printed something more on either output.
    pub fn wait_for_output(&mut self, deadline: Deadline) -> Result<()> {
        ensure!(!self.ended, "{}: ended", self.describe());
        self.receive(deadline)
    }

    /// What it has printed so far.
    pub fn output_so_far(&mut self) -> &Output {
        while let Ok(message) = self.messages.try_recv() {
            self.on_message(message);
        }
        &self.output
    }

    /// Whether it still runs, as far as is known here.
    pub fn is_running(&mut self) -> bool {
        self.output_so_far();
        !self.ended
    }

    /// Sends a signal to it and to what it started.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.guest.send(self.id, &Message::Signal(signal as i32))
    }

    /// Ends it.
    pub fn kill(&mut self) -> Result<Output> {
        self.signal(Signal::SIGKILL)?;
        self.wait(USUAL_LIMIT)
    }

    fn has_printed(&self, text: &str) -> bool {
        let printed = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
        printed(&self.output.stdout) || printed(&self.output.stderr)
    }

    fn receive(&mut self, deadline: Deadline) -> Result<()> {
        match self.messages.recv_timeout(deadline.remaining()) {
            Ok(Message::Refused(reason)) => bail!("{}: {reason}", self.describe()),
            Ok(message) => self.on_message(message),
            Err(RecvTimeoutError::Timeout) => bail!("{}: takes too long", self.describe()),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{}: the machine went away", self.describe())
            }
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Stdout(bytes) => self.output.stdout.extend(bytes),
            Message::Stderr(bytes) => self.output.stderr.extend(bytes),
            Message::Exit(code) => {
                self.output.code = code;
                self.ended = true;
                self.guest.note_output(self.id, &self.output);
            }
            other => self
                .guest
                .note(&format!("#{} unexpected: {other:?}", self.id)),
        }
    }

    /// For errors: which command on which machine, and what it printed last.
    fn describe(&self) -> String {
        let Process {
            guest,
            title,
            output,
            ..
        } = self;
        let mut text = format!("{}: `{title}`", guest.name);
        for printed in [output.text(), output.error_text()] {
            if let Some(line) = printed.lines().last() {
                text.push_str(&format!(" (last line {line:?})"));
            }
        }
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
