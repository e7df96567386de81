//! coupond nodes as processes. Each ends with this process, and only these are ever signalled.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

use super::network;
use crate::children;

/// Longest stop of a node: README promises 10 s.
const STOPS_WITHIN: Duration = Duration::from_secs(12);

/// Pause between two looks whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Memory that a node gets beyond what it has, when its memory is exhausted, in bytes.
const SPARE_BYTES: u64 = 1 << 20;

/// How nodes are started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// Settings of all nodes, as `key=value`.
    pub(crate) settings: Vec<String>,
    /// Admin token of all nodes.
    pub(crate) token: String,
    /// Where logs are kept.
    pub(crate) folder: PathBuf,
    /// Whether each node is of a group of its own, by which its links can be told apart.
    pub(crate) has_groups: bool,
    /// The library that sets the wall clock of nodes.
    pub(crate) fake_time: Option<&'static str>,
}

/// A node, running or not.
pub(crate) struct NodeProcess {
    number: usize,
    program: Program,
    /// `host:port` of the public listener, the same after a restart.
    pub(crate) api: String,
    /// `host:port` of the admin listener.
    pub(crate) admin: String,
    child: Option<Child>,
}

fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl NodeProcess {
    /// Chooses addresses for a node, which is not started yet.
    ///
    /// # Errors
    /// That no port is free.
    pub(crate) fn new(number: usize, program: &Program) -> Result<Self, String> {
        let address = || free_address().map_err(|error| format!("no free port: {error}"));
        let (api, admin) = (address()?, address()?);
        Ok(Self { number, program: program.clone(), api, admin, child: None })
    }

    /// Starts the node. It is not ready yet.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        self.kill();
        let Program { binary, settings, token, folder, .. } = &self.program;
        let log = File::options().append(true).create(true).open(self.log());
        let log = log.map_err(|error| format!("{}: {error}", self.log().display()))?;
        let own = [
            format!("api.listen={}", self.api),
            format!("admin.listen={}", self.admin),
            "api.drain=0s".to_owned(),
        ];
        let mut command = children::node(binary, settings.iter().chain(&own), token, folder);
        command.stderr(log);
        if self.program.has_groups {
            command.gid(network::group(self.number));
        }
        if let Some(library) = self.program.fake_time {
            self.set_clock("+0")?;
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.clock());
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.spawn().map_err(|error| format!("node {}: {error}", self.number))?;
        self.child = Some(child);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.program.folder.join(format!("node-{}.log", self.number))
    }

    fn clock(&self) -> PathBuf {
        self.program.folder.join(format!("node-{}.clock", self.number))
    }

    /// Returns the number of the node, from 0.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Sets the wall clock of the node, where the library for that is loaded.
    ///
    /// # Errors
    /// That the file that it reads cannot be written.
    pub(crate) fn set_clock(&self, difference: &str) -> Result<(), String> {
        // Replaced as a whole: the library may read at any moment.
        let (file, draft) = (self.clock(), self.clock().with_extension("draft"));
        fs::write(&draft, difference)
            .and_then(|()| fs::rename(draft, &file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }

    fn pid(&self) -> Option<Pid> {
        let id = i32::try_from(self.child.as_ref()?.id()).ok()?;
        Pid::from_raw(id)
    }

    /// Sends a signal to the node, if it runs.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = self.pid()
        {
            let _gone = kill_process(pid, signal);
        }
    }

    /// Returns how the node ended, if it was started and has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Returns whether it was started, and not ended since.
    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Returns whether it was started and runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// Kills the node, if it runs, and forgets how it ended.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _ended = child.wait();
        }
    }

    /// Waits until the node ends, and forgets it. Returns its exit code.
    ///
    /// # Errors
    /// That it does not end, or by a signal.
    pub(crate) async fn exit_code(&mut self) -> Result<i32, String> {
        let began = Instant::now();
        while self.runs() {
            if began.elapsed() > STOPS_WITHIN {
                return Err(format!("node {} did not end in {STOPS_WITHIN:?}", self.number));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let ended = self.ended().ok_or_else(|| format!("node {} was not started", self.number))?;
        self.child = None;
        ended.code().ok_or_else(|| format!("node {} ended: {ended}", self.number))
    }

    /// Lets the node open no further file, or lifts that.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn limit_files(&self, exhausted: bool) -> Result<(), String> {
        let pid = self.pid().ok_or("the node does not run")?;
        let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
        let open = fs::read_dir(folder).map_err(|error| error.to_string())?.count();
        self.limit(pid, "nofile", Resource::Nofile, exhausted.then_some(open as u64))
    }

    /// Sets the soft limit of the node, or raises it to the hard one, which it has from this process. Only a
    /// process of its own group may do that.
    fn limit(
        &self,
        pid: Pid,
        name: &str,
        resource: Resource,
        most: Option<u64>,
    ) -> Result<(), String> {
        let text = |value: Option<u64>| value.map_or("unlimited".to_owned(), |it| it.to_string());
        let hard = getrlimit(resource).maximum;
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid.as_raw_nonzero().to_string()]);
        prlimit.arg(format!("--{name}={}:{}", text(most.or(hard)), text(hard)));
        if self.program.has_groups {
            prlimit.gid(network::group(self.number));
        }
        let output = prlimit.output().map_err(|error| format!("prlimit: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Gives the node no further memory, or lifts that.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn limit_memory(&self, exhausted: bool) -> Result<(), String> {
        let pid = self.pid().ok_or("the node does not run")?;
        let file = format!("/proc/{}/statm", pid.as_raw_nonzero());
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let pages: u64 = text.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default();
        let size = pages * rustix::param::page_size() as u64;
        self.limit(pid, "as", Resource::As, exhausted.then_some(size + SPARE_BYTES))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where Debian, Fedora and Arch put the library, for programs with several threads.
const FAKE_TIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// Returns the library that sets the wall clock of a process, if it is installed.
pub(crate) fn fake_time() -> Option<&'static str> {
    FAKE_TIME.into_iter().find(|path| Path::new(path).exists())
}
