//! The volume keeps every promise of its seam, with the kernel's help and without.

#![allow(clippy::unwrap_used)] // a failed expectation is the result

use std::sync::Arc;

use torpor_testkit::conformance::volume::Files;
use torpor_volume::Shared;

mod with_the_kernel {
    use super::*;

    async fn fresh() -> Files {
        let around = tempfile::tempdir().unwrap();
        let volume = Arc::new(Shared::new(around.path().join("root")));
        Files { volume, around: around.path().to_owned(), follows: true, keep: Box::new(around) }
    }

    torpor_testkit::volume_conformance!(fresh);
}

mod step_by_step {
    use super::*;

    async fn fresh() -> Files {
        let around = tempfile::tempdir().unwrap();
        let volume = Arc::new(Shared::stepwise(around.path().join("root")));
        Files { volume, around: around.path().to_owned(), follows: false, keep: Box::new(around) }
    }

    torpor_testkit::volume_conformance!(fresh);
}
