// SPDX-License-Identifier: GPL-2.0-only
//! Machines that make up one test. What a failed test leaves, console logs and
//! transcripts of all commands, is kept under `artefacts/` in the cache folder.

use std::{
    any,
    collections::BTreeMap,
    fs,
    io::{self, BufWriter},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use anyhow::{anyhow, Context, Result};

use crate::{
    cpio::Archive,
    disk::Disk,
    files::{products, Boot, RunFolder},
    net::Network,
    qemu::Hardware,
    vm::{address, check_path, name, Machine, Spent},
};

const START_SCRIPT: &[u8] = include_bytes!("../guest/start");
const AGENT: &str = "weft-guest";
const PROGRAMS: [&str; 5] = ["weftd", "weft", "weftsetup", "weft-records", "weft-trouble"];

/// The description of a cluster.
pub struct Builder {
    nodes: usize,
    hardware: Hardware,
    disks: Vec<(String, u64)>,
    own_disks: BTreeMap<usize, Vec<(String, u64)>>,
    block_lens: BTreeMap<usize, u32>,
    files: Vec<(String, u32, Vec<u8>)>,
}

/// Machines that are on one network.
pub struct Cluster {
    machines: Vec<Machine>,
    network: Network,
    // Last, so that the machines are gone before their files are.
    folder: RunFolder,
}

impl Cluster {
    /// A cluster of `nodes` machines, each with a disk `data` of 1 GiB.
    #[allow(clippy::new_ret_no_self)] // It reads as what it describes.
    pub fn new(nodes: usize) -> Builder {
        Builder {
            nodes,
            hardware: Hardware {
                memory_mib: 640,
                vcpus: 2,
            },
            disks: vec![("data".to_owned(), 1 << 30)],
            own_disks: BTreeMap::new(),
            block_lens: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// A machine by number, from 0.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, node: usize) -> &Machine {
        &self.machines[node]
    }

    /// All machines.
    pub fn nodes(&self) -> &[Machine] {
        &self.machines
    }

    /// Does the same on all machines at the same time; fails if one of them does.
    pub fn each(&self, act: impl Fn(&Machine) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let machines = self.machines.iter();
            let acts: Vec<_> = machines
                .map(|machine| scope.spawn(|| act(machine)))
                .collect();
            // All are joined: nothing of a failed test may go on.
            let ends: Vec<_> = acts
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect();
            ends.into_iter()
                .try_for_each(|end| end.map_err(|_| anyhow!("panicked"))?)
        })
    }

    /// What joins them.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// An error if the kernel of any machine complained.
    pub fn check_kernel_logs(&self) -> Result<()> {
        for machine in &self.machines {
            if let Some(complaint) = machine.complaints()?.first() {
                return Err(anyhow!(
                    "{}: the kernel complains:\n{complaint}",
                    machine.name()
                ));
            }
        }
        Ok(())
    }

    /// Switches everything off, and says in one line what the test took since it began.
    fn cost(&self, begun: Instant) -> String {
        let mut sum = Spent::default();
        for machine in &self.machines {
            machine.switch_off();
            let Spent {
                lives,
                booting,
                processors,
            } = machine.cost();
            sum.lives += lives;
            sum.booting += booting;
            sum.processors += processors;
        }
        format!(
            "{:.1} s; {} boots of {:.1} s; {:.1} s of processors",
            begun.elapsed().as_secs_f64(),
            sum.lives,
            sum.booting.as_secs_f64() / f64::from(sum.lives.max(1)),
            sum.processors.as_secs_f64(),
        )
    }

    /// Keeps logs and transcripts beyond the cluster's life; returns where.
    pub fn keep_artefacts(&self) -> Result<PathBuf> {
        self.folder.keep()
    }
}

impl Builder {
    /// Gives every node these disks (serial number and bytes) instead of `data`.
    pub fn disks(mut self, disks: &[(&str, u64)]) -> Self {
        self.disks = owned(disks);
        self
    }

    /// Gives one node other disks than the rest.
    pub fn disks_of(mut self, node: usize, disks: &[(&str, u64)]) -> Self {
        self.own_disks.insert(node, owned(disks));
        self
    }

    /// Gives the disks of one node logical blocks of other than 512 bytes.
    pub fn block_len_of(mut self, node: usize, bytes: u32) -> Self {
        self.block_lens.insert(node, bytes);
        self
    }

    /// Memory of every node.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.hardware.memory_mib = memory_mib;
        self
    }

    /// Processors of every node.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.hardware.vcpus = vcpus;
        self
    }

    /// Puts a file with mode bits on every node, whenever it boots.
    pub fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((
            path.trim_start_matches('/').to_owned(),
            mode,
            content.into(),
        ));
        self
    }

    /// Switches all machines on and waits until they take commands.
    pub fn boot(self, name: &str) -> Result<Cluster> {
        let cluster = self.build(name)?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Boots the cluster for a test, which fails if `body` does or if a kernel
    /// complained.
    ///
    /// # Panics
    /// If the test fails.
    pub fn test<F>(self, body: F)
    where
        F: FnOnce(&Cluster) -> Result<()>,
    {
        let begun = Instant::now();
        let cluster = self
            .build(&test_name::<F>())
            .expect("describing the cluster");
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            cluster.start_all()?;
            body(&cluster)
        }));
        let logs = cluster.check_kernel_logs();
        println!("{}", cluster.cost(begun));
        if matches!(outcome, Ok(Ok(()))) && logs.is_ok() {
            return;
        }
        match cluster.keep_artefacts() {
            Ok(kept) => eprintln!("console logs and transcripts: {}", kept.display()),
            Err(error) => eprintln!("console logs and transcripts are lost: {error:#}"),
        }
        if let Err(complaint) = logs {
            eprintln!("{complaint:#}");
        }
        drop(cluster);
        match outcome {
            Ok(Ok(())) => panic!("the test went well, but the kernel complains"),
            Ok(Err(error)) => panic!("{error:#}"),
            Err(payload) => panic::resume_unwind(payload),
        }
    }

    fn build(self, test: &str) -> Result<Cluster> {
        let boot = Arc::new(Boot::find()?);
        let folder = RunFolder::new(test)?;
        check_path(folder.path())?;
        let payload = folder.path().join("payload");
        self.write_payload(&boot, &payload)?;
        let network = Network::new(self.nodes);
        let machine = |node| {
            let disks = self.own_disks.get(&node).unwrap_or(&self.disks);
            let block_len = self.block_lens.get(&node).copied().unwrap_or(512);
            let disks = disks.iter().map(|(serial, size)| {
                Disk::new(folder.path(), &name(node), serial, *size, block_len)
            });
            Ok(Machine {
                node,
                name: name(node),
                hardware: self.hardware.clone(),
                boot: Arc::clone(&boot),
                payload: payload.clone(),
                network: network.clone(),
                disks: disks.collect::<Result<_>>()?,
                folder: folder.path().to_owned(),
                life: Mutex::new(None),
                expected: Mutex::new(Vec::new()),
                spent: Mutex::new(Spent::default()),
            })
        };
        Ok(Cluster {
            machines: (0..self.nodes).map(machine).collect::<Result<_>>()?,
            network,
            folder,
        })
    }

    /// An archive with all that is ours, so that a rebuilt product needs no new
    /// image.
    fn write_payload(&self, boot: &Boot, path: &Path) -> Result<()> {
        let mut archive = Archive::new(BufWriter::new(fs::File::create(path)?));
        let mut add = |path: &str, mode, content: &[u8]| archive.add(path, mode, content);
        add("usr/local/lib/weft-tests/start", 0o755, START_SCRIPT)?;
        add("etc/hosts", 0o644, self.hosts().as_bytes())?;
        let products = products()?;
        let agent =
            fs::read(products.join(AGENT)).context("there is no agent; next: scripts/build")?;
        add(&format!("usr/local/lib/weft-tests/{AGENT}"), 0o755, &agent)?;
        for program in PROGRAMS {
            if let Some(content) = read_if_there(&products.join(program))? {
                add(&format!("usr/local/sbin/{program}"), 0o755, &content)?;
            }
        }
        if let Some(module) = read_if_there(&products.join("weft.ko"))? {
            let target = format!("usr/lib/modules/{}/extra/weft.ko", boot.release);
            add(&target, 0o644, &module)?;
        }
        for (path, mode, content) in &self.files {
            add(path, *mode, content)?;
        }
        archive
            .finish()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    fn hosts(&self) -> String {
        let line = |node| format!("{} {}\n", address(node), name(node));
        "127.0.0.1 localhost\n".to_owned() + &(0..self.nodes).map(line).collect::<String>()
    }
}

impl Cluster {
    /// Takes the power of all machines; whatever waits for them fails.
    pub(crate) fn switch_off(&self) {
        self.machines.iter().for_each(Machine::switch_off);
    }

    fn start_all(&self) -> Result<()> {
        for machine in &self.machines {
            machine.switch_on()?;
        }
        self.each(Machine::await_boot)
    }
}

fn owned(disks: &[(&str, u64)]) -> Vec<(String, u64)> {
    let disks = disks.iter();
    disks
        .map(|(serial, size)| ((*serial).to_owned(), *size))
        .collect()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The path of the test function that a closure was written in.
fn test_name<F>() -> String {
    let name = any::type_name::<F>();
    let path = name.split("::{{closure}}").next();
    path.and_then(|path| path.split_once("::"))
        .map_or(name, |(_program, path)| path)
        .replace("::", ".")
}
