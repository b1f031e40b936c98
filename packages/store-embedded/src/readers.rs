//! The reading connections: a few threads that take read jobs, so that no query ever runs on the async runtime.
//!
//! Each job sees the last commit: one that was acknowledged before the job was made is never missed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};
use torpor_core::store;

use crate::fault::Fault;
use crate::schema;

/// Reading connections, each with its thread.
const READERS: usize = 2;

/// Read jobs that may wait; further callers wait for one of these to end.
const PENDING: usize = 1_024;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The pool.
pub(crate) struct Readers {
    jobs: Option<mpsc::Sender<Job>>,
    permits: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub(crate) fn start(file: &Path) -> Result<Self, store::Error> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::with_capacity(READERS);
        for n in 0..READERS {
            let conn = schema::open_reader(file)?;
            let inbox = Arc::clone(&inbox);
            let thread = std::thread::Builder::new()
                .name(format!("store-read-{n}"))
                .spawn(move || serve(&conn, &inbox))
                .map_err(|e| store::Error::Failed(format!("cannot start a reader thread: {e}")))?;
            threads.push(thread);
        }
        Ok(Self { jobs: Some(jobs), permits: Arc::new(Semaphore::new(PENDING)), threads })
    }

    /// Runs one read job.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, store::Error> {
        let stopped = || store::Error::Unavailable("its reader threads have stopped".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let result = job(conn).map_err(store::Error::from);
            drop(permit);
            let _ = reply.send(result); // the caller may be gone
        });
        self.jobs.as_ref().ok_or_else(stopped)?.send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn serve(conn: &Connection, inbox: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(conn),
            Err(_) => return,
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a reader that panicked has nothing to tell
        }
    }
}
