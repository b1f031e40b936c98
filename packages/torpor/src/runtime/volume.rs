//! What one process does with the shared volume: it writes the files of runs, and watches the inbox.
//!
//! Owns: how these are put together, and when they run. Must not know: what is written or watched.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::volume::Volume;
use torpor_files::{Inbox, Writer};
use torpor_server::{App, Intake};
use torpor_volume::Shared;
use torpor_worker::{Claims, Deliveries};

use crate::config::Config;
use crate::stores::Stores;

/// The volume that the configuration asks for. Nothing is looked at yet.
pub(super) fn shared(config: &Config) -> Option<Arc<dyn Volume>> {
    config.volume.as_ref().map(|volume| Arc::new(Shared::new(&volume.root)) as Arc<dyn Volume>)
}

/// Work with the volume. Cheap to clone; clones are one.
#[derive(Clone)]
pub(super) struct Files {
    volume: Arc<dyn Volume>,
    /// What writes.
    pub(super) deliveries: Deliveries,
    inbox: Option<Arc<Inbox>>,
}

impl Files {
    /// `None` where there is no volume.
    pub(super) fn new(config: &Config, app: &App, stores: &Stores) -> Option<Self> {
        let (settings, volume) = (config.volume.as_ref()?, app.volume.clone()?);
        let writer = Writer { runs: stores.runs.clone(), log: stores.log.clone(), volume: volume.clone() };
        let (clock, observer) = (app.clock.clone(), app.observer.clone());
        let deliver = Arc::new(writer.clone());
        let inbox = settings.inbox.clone().map(|inbox| {
            Arc::new(Inbox {
                folder: inbox.folder,
                tenant: inbox.tenant,
                volume: volume.clone(),
                submit: Arc::new(Intake::new(app)),
                gates: stores.gates.clone(),
                writer,
                clock: clock.clone(),
            })
        });
        Some(Self { volume, deliveries: Deliveries::files(stores.outbox.clone(), deliver, clock, observer), inbox })
    }

    /// Writes and watches until `shutdown`; then what is being written may be finished for `drain`. Files are written by
    /// whoever claims the work that nobody waits for, and by others if the volume is theirs to see.
    pub(super) async fn run(self, claims: Claims, shutdown: impl Future<Output = ()>, drain: Duration) {
        let watching = self.inbox.clone().map(|inbox| tokio::spawn(async move { inbox.run().await }));
        if claims == Claims::All || self.volume.ready().await.is_ok() {
            self.deliveries.run(shutdown, drain).await;
        } else {
            shutdown.await;
        }
        if let Some(watching) = watching {
            watching.abort();
        }
    }
}
