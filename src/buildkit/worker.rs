//! The thread in which all that is asynchronous about a build goes on.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::BuildError;

/// A thread that runs tasks until this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start() -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("buildkit".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
            // A task that waits for somebody's program or file is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Worker { handle, stop: Some(stop), thread: Some(thread) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for a task, no longer than `patience`.
    pub fn wait<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        task: impl Future<Output = Result<T, BuildError>>,
    ) -> Result<T, BuildError> {
        let late = BuildError::Late { doing, after: patience };
        self.handle.block_on(async { timeout(patience, task).await }).unwrap_or(Err(late))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
