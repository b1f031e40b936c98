//! Shards: which one holds what, and the first steps of a store.

use sha2::{Digest as _, Sha256};
use torpor_core::store;

use crate::Options;
use crate::link::{Lane, Link};
use crate::script::{Args, Script, run, script};

/// The layout this build writes and reads.
pub(crate) const LAYOUT: u64 = 1;

/// Most shards: what is known by run id alone is asked of all of them.
const MAX_SHARDS: u16 = 256;

/// One hash tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shard(u16);

impl Shard {
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

/// All shards of a store.
#[derive(Debug)]
pub(crate) struct Shards {
    prefixes: Vec<String>,
}

impl Shards {
    pub(crate) fn new(prefix: &str, shards: u16) -> Self {
        let shards = shards.clamp(1, MAX_SHARDS);
        Self { prefixes: (0..shards).map(|n| format!("{prefix}:{{{n}}}:")).collect() }
    }

    /// Where everything of a tenant is.
    pub(crate) fn of_tenant(&self, tenant: &str) -> Shard {
        let hash = Sha256::digest(tenant.as_bytes());
        let first = hash.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let shards = self.prefixes.len() as u64;
        Shard(u16::try_from(first % shards).unwrap_or(0))
    }

    /// Where what belongs to nobody is.
    pub(crate) fn first(&self) -> Shard {
        Shard(0)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..u16::try_from(self.prefixes.len()).unwrap_or(MAX_SHARDS)).map(Shard)
    }

    /// What the keys of a shard begin with.
    pub(crate) fn prefix(&self, shard: Shard) -> &str {
        self.prefixes.get(usize::from(shard.0)).map_or("", String::as_str)
    }
}

static FOUND: Script = script!("found", []);
static RIGHTS: Script = script!(reads "rights", []);

/// Makes the store if there is none, and checks that it is one this build can use; answers its id.
pub(crate) async fn found(link: &Link, shards: &Shards, options: &Options) -> Result<String, store::Error> {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    let now = options.clock.as_ref().map(|clock| clock.now());
    for shard in shards.all() {
        let prefix = shards.prefix(shard);
        let mut refused = run(link, Lane::Control, (&RIGHTS, prefix, now), &Args::new()).await?;
        if refused.len() > 0 {
            let command = refused.text()?;
            return Err(store::Error::Failed(format!(
                "this user of Redis may not use {command} on keys and channels that begin with {prefix}"
            )));
        }
        let args = Args::new().number(LAYOUT).number(shards.prefixes.len() as u64).text(&id);
        let mut answer = run(link, Lane::Control, (&FOUND, prefix, now), &args).await?;
        let (layout, found) = (answer.number()?, answer.number()?);
        id = answer.text()?;
        if layout > LAYOUT {
            return Err(store::Error::Unreadable(format!(
                "it is of layout {layout}, this build reads up to {LAYOUT}: use a newer build"
            )));
        }
        if found != shards.prefixes.len() as u64 {
            return Err(store::Error::Failed(format!(
                "the store has {found} shards, and {} are configured: the number cannot be changed once it is in use",
                shards.prefixes.len()
            )));
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_place_and_tenants_are_spread() {
        let shards = Shards::new("t", 4);
        assert_eq!(shards.prefix(Shard(3)), "t:{3}:");
        let mut seen = [0; 4];
        for n in 0..400 {
            let tenant = format!("tenant-{n}");
            assert_eq!(shards.of_tenant(&tenant), shards.of_tenant(&tenant));
            seen[usize::from(shards.of_tenant(&tenant).0)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
        assert_eq!(Shards::new("t", 1).of_tenant("any"), Shard(0));
    }
}
