// SPDX-License-Identifier: GPL-2.0-only
//! One test machine: it can be switched on, lose its power, freeze, and run
//! commands while it is on. Its disks outlive its lives.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        mpsc::{Receiver, RecvTimeoutError},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use nix::{
    sys::signal::{kill, Signal},
    unistd::Pid,
};

use crate::{
    disk::{Disk, Survivors},
    dmesg,
    files::{artefacts, Boot},
    guest::{Command, Guest, Output, Process},
    monitor::Monitor,
    net::{self, Network},
    qemu::{Hardware, Qemu},
    wait::eventually,
    wire::Message,
};

/// How long a machine may take to boot or to switch itself off; on an emulated
/// processor and a busy host that is much longer than usual.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How often it is tried. Machines emulated with a thread for each processor stood still now and then while their devices
/// were found, see [`crate::qemu`]; should one do so again, it is said, and where it stands is kept. The product is not
/// loaded then, nor has anything been written.
const ATTEMPTS: u32 = 3;
/// How long QEMU may take to tell where a machine stands.
const MONITOR_LIMIT: Duration = Duration::from_secs(20);
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(180);

/// A machine of a [`crate::Cluster`].
pub struct Machine {
    pub(crate) node: usize,
    pub(crate) name: String,
    pub(crate) hardware: Hardware,
    pub(crate) boot: Arc<Boot>,
    pub(crate) payload: PathBuf,
    pub(crate) network: Network,
    pub(crate) disks: Vec<Disk>,
    /// Where its logs and its transcript lie.
    pub(crate) folder: PathBuf,
    pub(crate) life: Mutex<Option<Life>>,
    pub(crate) expected: Mutex<Vec<String>>,
    pub(crate) spent: Mutex<Spent>,
}

/// What a machine's lives have cost.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) lives: u32,
    /// From the switch to the first command.
    pub(crate) booting: Duration,
    /// Of the host.
    pub(crate) processors: Duration,
}

/// What exists while a machine is on.
pub(crate) struct Life {
    qemu: Child,
    monitor: Monitor,
    born: Instant,
    guest: Arc<Guest>,
    from_machine: Receiver<Message>,
    disk_servers: Vec<JoinHandle<io::Result<()>>>,
}

impl Machine {
    /// Its host name: alpha, beta, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the network that joins the cluster.
    pub fn address(&self) -> String {
        address(self.node)
    }

    /// Its disk with that serial number; `data` unless described otherwise.
    ///
    /// # Panics
    /// If it has no such disk.
    pub fn disk(&self, serial: &str) -> &Disk {
        let found = self.disks.iter().find(|disk| disk.serial() == serial);
        found.unwrap_or_else(|| panic!("{} has no disk {serial}", self.name))
    }

    /// Switches it on and waits until it takes commands.
    pub fn start(&self) -> Result<()> {
        self.switch_on()?;
        self.await_boot()
    }

    pub(crate) fn switch_on(&self) -> Result<()> {
        let mut life = self.life();
        ensure!(life.is_none(), "{} is on already", self.name);
        let mut qemu = Qemu::machine(&self.hardware, &self.boot)?;
        qemu.console(&self.console_log());
        qemu.network(self.network.plug(self.node)?, &net::mac(self.node));
        let (monitor, theirs) = UnixStream::pair()?;
        qemu.monitor(theirs);
        let (ours, theirs) = UnixStream::pair()?;
        qemu.agent_port(theirs);
        let guest = Guest::new(&self.name, ours, &self.log("commands"))?;
        let from_machine = guest.listen_to_machine();
        let mut disk_servers = Vec::new();
        for disk in &self.disks {
            let (ours, theirs) = UnixStream::pair()?;
            qemu.disk(theirs, disk.serial(), disk.block_len());
            disk_servers.push(disk.serve(ours));
        }
        qemu.payload(&self.payload);
        *life = Some(Life {
            qemu: qemu.start(&self.log("qemu"))?,
            monitor: Monitor::new(monitor, MONITOR_LIMIT)?,
            born: Instant::now(),
            guest,
            from_machine,
            disk_servers,
        });
        Ok(())
    }

    /// Waits until it takes commands; one that stands still before that is switched on again.
    pub(crate) fn await_boot(&self) -> Result<()> {
        for attempt in 1.. {
            if self.has_booted()? {
                break;
            }
            let stuck = format!("{}: no boot in {BOOT_LIMIT:?}", self.name);
            let kept = self.keep_where_it_stands()?;
            ensure!(attempt < ATTEMPTS, "{stuck}, {ATTEMPTS} times");
            // Past the capture of a test's output: it has to be seen although the test goes on.
            let line = format!(
                "{stuck}; trying once more. Where it stands: {}\n",
                kept.display()
            );
            io::stderr().write_all(line.as_bytes())?;
            self.end()?;
            self.switch_on()?;
        }
        Ok(())
    }

    /// Whether it took commands in time.
    fn has_booted(&self) -> Result<bool> {
        let life = self.life();
        let life = life.as_ref().with_context(|| self.is_off())?;
        match life.from_machine.recv_timeout(BOOT_LIMIT) {
            Ok(Message::Ready) => {
                let mut spent = self.spent();
                spent.lives += 1;
                spent.booting += life.born.elapsed();
                Ok(true)
            }
            Ok(other) => bail!("{}: unexpected {other:?}", self.name),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                bail!(
                    "{}: died while booting:\n{}",
                    self.name,
                    self.console_tail()
                )
            }
        }
    }

    /// Where its processors are, by what QEMU says.
    pub(crate) fn program_counters(&self) -> Result<Vec<u64>> {
        let mut life = self.life();
        let life = life.as_mut().with_context(|| self.is_off())?;
        life.monitor.program_counters()
    }

    /// Keeps what its processors do, where the next run finds it.
    fn keep_where_it_stands(&self) -> Result<PathBuf> {
        let mut life = self.life();
        let life = life.as_mut().with_context(|| self.is_off())?;
        let found = life.monitor.inspect()? + "== console\n" + &self.console_tail();
        let folder = artefacts()?;
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("no-boot.{}.{}.log", self.name, life.qemu.id()));
        std::fs::write(&file, found)?;
        Ok(file)
    }

    /// Takes its power away: whatever was not flushed is lost.
    pub fn power_cut(&self) -> Result<()> {
        self.power_cut_sparing(Survivors::Nothing)
    }

    /// Takes its power away, with a choice of what the disks' caches save.
    pub fn power_cut_sparing(&self, survivors: Survivors) -> Result<()> {
        self.end()?;
        for disk in &self.disks {
            disk.power_cut(survivors)?;
        }
        Ok(())
    }

    /// Lets it write everything back and switch itself off.
    pub fn shut_down(&self) -> Result<()> {
        self.guest()?.power_off()?;
        self.await_end(SHUTDOWN_LIMIT).map(drop)
    }

    /// Waits until the machine ends by itself, as it does when its kernel panics.
    pub fn await_end(&self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        eventually(&what, limit, || {
            let mut life = self.life();
            Ok(life
                .as_mut()
                .with_context(|| self.is_off())?
                .qemu
                .try_wait()?)
        })?;
        self.bury(self.take_life()?)
    }

    /// Stops its processors where they are; its clock goes on.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets its processors go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.life().is_some()
    }

    /// Runs a bash script that must succeed, and returns what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.succeed(&Command::shell(script))
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn succeed(&self, command: &Command) -> Result<String> {
        let output = self.run(command)?;
        let Output { code, .. } = output;
        let errors = output.error_text();
        ensure!(
            code == 0,
            "{}: `{command}` exit code {code}\n{errors}",
            self.name
        );
        Ok(output.text())
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, command: &Command) -> Result<Output> {
        self.guest()?.run(command)
    }

    /// Starts a command and lets it run.
    pub fn spawn(&self, command: &Command) -> Result<Process> {
        self.guest()?.spawn(command)
    }

    /// Writes a file with mode bits, and the folders above it.
    pub fn write_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1""#;
        let argv = ["bash", "-c", script, "write", path, &format!("{mode:o}")];
        self.succeed(&Command::new(argv).stdin(content)).map(drop)
    }

    /// Reads a file.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(&Command::new(["cat", "--", path]))?;
        ensure!(output.code == 0, "{}: {}", self.name, output.error_text());
        Ok(output.stdout)
    }

    /// Loads the module and what it depends on. It came along beside the image's
    /// index of modules, which does not know it.
    pub fn load_module(&self) -> Result<()> {
        self.sh("module=/lib/modules/$(uname -r)/extra/weft.ko
             for needed in $(modinfo --field depends $module | tr , ' '); do modprobe $needed; done
             insmod $module")
            .map(drop)
    }

    /// Everything that all its lives have printed on the console.
    pub fn console(&self) -> Result<String> {
        let path = self.console_log();
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Says that lines with this text in the kernel log are what a test is after.
    pub fn expect_complaint(&self, text: &str) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.push(text.to_owned());
    }

    /// What its kernel complained about so far.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(dmesg::complaints(&self.console()?, &expected))
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its present life has used of the host's processors so far.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let life = self.life();
        let life = life.as_ref().with_context(|| self.is_off())?;
        Ok(processor_time(life.qemu.id()))
    }

    /// What its lives have cost, those that are over.
    pub(crate) fn cost(&self) -> Spent {
        *self.spent()
    }

    fn log(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}.log", self.name))
    }

    fn console_log(&self) -> PathBuf {
        self.log("console")
    }

    fn console_tail(&self) -> String {
        let console = self.console().unwrap_or_default();
        let start = console.len().saturating_sub(2000);
        console.get(start..).unwrap_or(&console).to_owned()
    }

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_life(&self) -> Result<Life> {
        self.life().take().with_context(|| self.is_off())
    }

    fn guest(&self) -> Result<Arc<Guest>> {
        let life = self.life();
        Ok(Arc::clone(
            &life.as_ref().with_context(|| self.is_off())?.guest,
        ))
    }

    fn is_off(&self) -> String {
        format!("{} is off", self.name)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let life = self.life();
        let pid = life.as_ref().with_context(|| self.is_off())?.qemu.id();
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Ends what is left of it.
    pub(crate) fn switch_off(&self) {
        // It may be off, or have ended by itself; nothing else can go wrong here.
        let _ = self.end();
    }

    fn end(&self) -> Result<()> {
        let mut life = self.take_life()?;
        self.spent().processors += processor_time(life.qemu.id());
        life.qemu.kill()?;
        self.bury(life).map(drop)
    }

    /// Waits for what belongs to a life that is over. A request that was already
    /// on its way to a disk still takes effect there.
    fn bury(&self, mut life: Life) -> Result<ExitStatus> {
        let status = life.qemu.wait()?;
        self.disks.iter().for_each(Disk::go_on);
        for server in life.disk_servers {
            let served = server
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("panicked")));
            served.with_context(|| format!("{}: disk server", self.name))?;
        }
        Ok(status)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// What a process has used of processors; nothing if it is gone.
fn processor_time(pid: u32) -> Duration {
    /// Of all machines that Linux runs on today.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The address of a node.
pub(crate) fn address(node: usize) -> String {
    format!("10.9.0.{}", node + 1)
}

/// The host name of a node.
pub(crate) fn name(node: usize) -> String {
    const NAMES: [&str; 8] = [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta",
    ];
    NAMES
        .get(node)
        .map_or_else(|| format!("node{node}"), |name| (*name).to_owned())
}

/// Whether `path` can be part of a QEMU option.
pub(crate) fn check_path(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    ensure!(
        !text.contains(','),
        "QEMU cannot use {text}: it has a comma"
    );
    Ok(())
}
