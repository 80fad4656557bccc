// SPDX-License-Identifier: GPL-2.0-only

//! `weftd`, the daemon.

use clap::Parser;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use weft_daemon::config::{self, Config, ConfigError};
use weft_daemon::control::{RUN_DIR, SOCKET_NAME};
use weft_daemon::daemon::{Daemon, Failure, Parts, STATE_DIR};
use weft_daemon::kernel::device::Device;
use weft_daemon::process;
use weft_daemon::process::lock::{LockError, RunLock};
use weft_daemon::reactor::orders::Signals;
use weft_uapi::control::CONTROL_DEVICE;

/// The Weft daemon: connects this node's module with its peers.
///
/// It runs in the foreground until SIGTERM or SIGINT. SIGHUP reads the configuration again (log level, heartbeat, peers and
/// their addresses), SIGUSR1 writes the state to the log. Exit codes: 0 stopped as told, 1 failed, 2 wrong usage.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Which of the configured nodes this machine is [default: the host name]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Folder of the lock and the control socket
    #[arg(long, value_name = "PATH", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// Folder of what has to survive a restart: what this node promised as a tie-breaker
    #[arg(long, value_name = "PATH", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// When the kernel module is not loaded, wait for it instead of failing
    #[arg(long)]
    wait_module: bool,
    /// How much to log: off, error, warn, info, debug or trace [default: as configured]
    #[arg(long, value_name = "LEVEL")]
    log: Option<log::LevelFilter>,
}

/// Why the daemon does not start, or ends.
#[derive(Debug)]
enum Ended {
    Config(ConfigError),
    Lock(LockError),
    ModuleMissing,
    DeviceBusy,
    Device(io::Error),
    Listen(std::net::SocketAddr, io::Error),
    Signals(io::Error),
    Failed(Failure),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Lock(error) => write!(f, "{error}"),
            Self::ModuleMissing => write!(
                f,
                "{CONTROL_DEVICE} does not exist: the kernel module is not loaded; try 'modprobe weft', or start weftd with --wait-module"
            ),
            Self::DeviceBusy => write!(f, "{CONTROL_DEVICE} has another owner; try 'fuser -v {CONTROL_DEVICE}'"),
            Self::Device(error) => write!(f, "{CONTROL_DEVICE}: {error}"),
            Self::Listen(address, error) => write!(
                f,
                "listening at {address}: {error}; is it an address of this machine, and is the port free ('ss -ltnp')?"
            ),
            Self::Signals(error) => write!(f, "taking over signals: {error}"),
            Self::Failed(failure) => write!(f, "{failure}"),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            eprintln!("weftd: {ended}");
            ExitCode::FAILURE
        }
    }
}

/// Everything is checked and bound before anything has an effect; whatever fails leaves nothing behind.
fn run(arguments: &Arguments) -> Result<(), Ended> {
    let config = Config::load(&arguments.config).map_err(Ended::Config)?;
    let node = config
        .this_node(arguments.node.as_deref())
        .map_err(Ended::Config)?
        .clone();
    start_log(arguments.log.unwrap_or(config.log));
    let mut lock = RunLock::take(&arguments.run_dir).map_err(Ended::Lock)?;
    let device = open_device(arguments.wait_module)?;
    let listener =
        TcpListener::bind(node.address).map_err(|error| Ended::Listen(node.address, error))?;
    let control = lock
        .bind(&arguments.run_dir.join(SOCKET_NAME))
        .map_err(Ended::Lock)?;
    let signals = Signals::new().map_err(Ended::Signals)?;
    process::protect();
    log::info!(
        "weftd {} is node {} ({}) at {}",
        env!("CARGO_PKG_VERSION"),
        node.id,
        node.name,
        node.address
    );
    let daemon = Daemon::new(Parts {
        config,
        config_path: arguments.config.clone(),
        state_dir: arguments.state_dir.clone(),
        node,
        listener,
        control,
        device: Box::new(device),
        orders: Box::new(signals),
    });
    process::notify_ready();
    daemon.and_then(Daemon::run).map_err(Ended::Failed)
}

/// Everything passes the logger's own filter, so that the level can change at run time.
fn start_log(level: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Trace)
        .format_target(false)
        .init();
    log::set_max_level(level);
}

fn open_device(wait: bool) -> Result<Device, Ended> {
    let mut told = false;
    loop {
        match Device::open(Path::new(CONTROL_DEVICE)) {
            Ok(device) => return Ok(device),
            Err(error) if is_missing(&error) && wait => {
                if !std::mem::replace(&mut told, true) {
                    log::info!("waiting for the kernel module");
                }
                thread::sleep(Duration::from_millis(500));
            }
            Err(error) if is_missing(&error) => return Err(Ended::ModuleMissing),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(Ended::DeviceBusy)
            }
            Err(error) => return Err(Ended::Device(error)),
        }
    }
}

/// Without the module there is no device node, or one without a driver.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(nix::libc::ENXIO)
        || error.raw_os_error() == Some(nix::libc::ENODEV)
}
