//! Stops single threads of a node.

use std::{
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use nix::{sys::ptrace, unistd::Pid};

/// Name of the threads on which actors run.
const WORKERS: &str = "tokio-rt-worker";

/// A stopped thread of another process. It goes on when this is dropped.
pub(crate) struct Stopped {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Stopped {
    /// Stops one of the threads on which the actors of a process run.
    pub(crate) fn one_worker(process: u32) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
        let is_worker = |task: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.trim() == WORKERS
        };
        let worker = tasks.flatten().find(is_worker).expect("it has workers");
        let thread: i32 = worker.file_name().to_string_lossy().parse().expect("a number");
        let (release, released) = channel::<()>();
        let (stopped, has_stopped) = channel();
        // A traced thread goes on when its tracer, which is a thread as well, has ended.
        let tracer = std::thread::spawn(move || {
            let thread = Pid::from_raw(thread);
            let seized = ptrace::seize(thread, ptrace::Options::empty());
            let _gone = stopped.send(seized.and_then(|()| ptrace::interrupt(thread)));
            // Ends as well when the other side is gone.
            let _released = released.recv();
        });
        has_stopped.recv().expect("the tracer lives").expect("threads can be traced");
        Self { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            tracer.join().expect("the tracer ends well");
        }
    }
}
