//! The seams that write files, with a fuse.

use std::time::Duration;

use async_trait::async_trait;
use torpor_core::store;
use torpor_core::volume::{Error, Listed, Place, Volume};
use torpor_core::webhook::{Channel, Claimed, Id, Noted, Outbox};

use super::Fused;

#[async_trait]
impl Volume for Fused<dyn Volume> {
    fn place(&self, tenant: Option<&str>, path: &str) -> Result<Place, String> {
        self.inner.place(tenant, path)
    }

    async fn ready(&self) -> Result<(), Error> {
        self.inner.ready().await
    }

    async fn read(&self, file: &Place, max: usize) -> Result<Vec<u8>, Error> {
        self.fuse.around(self.inner.read(file, max)).await
    }

    async fn publish(&self, file: &Place, bytes: Vec<u8>) -> Result<(), Error> {
        self.fuse.around(self.inner.publish(file, bytes)).await
    }

    async fn remove(&self, file: &Place) -> Result<(), Error> {
        self.fuse.around(self.inner.remove(file)).await
    }

    async fn rename(&self, from: &Place, to: &Place) -> Result<bool, Error> {
        self.fuse.around(self.inner.rename(from, to)).await
    }

    async fn make(&self, folder: &Place) -> Result<(), Error> {
        self.fuse.around(self.inner.make(folder)).await
    }

    async fn list(&self, folder: &Place, max: usize) -> Result<Vec<Listed>, Error> {
        self.fuse.around(self.inner.list(folder, max)).await
    }
}

#[async_trait]
impl Outbox for Fused<dyn Outbox> {
    async fn claim(
        &self,
        channel: Channel,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Claimed>, store::Error> {
        self.inner.claim(channel, max, lease, wait).await
    }

    async fn note(&self, id: &Id, attempt: u32, what: Noted) -> Result<bool, store::Error> {
        self.fuse.around(self.inner.note(id, attempt, what)).await
    }
}
