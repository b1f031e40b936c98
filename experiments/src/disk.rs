//! What the disk alone costs: the floor under everything that is durable.
//!
//! Owns: the baseline of a commit. Must not know: what is committed.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use crate::http::ms;
use crate::world::Context;

/// Bytes of one baseline write: about what a commit appends.
const PAGE: usize = 4096;

/// Milliseconds of appends to one file, each of which waits for the disk.
pub(crate) fn synced_appends(ctx: &Context, times: usize) -> anyhow::Result<Vec<f64>> {
    let dir = ctx.temp()?;
    let mut file = File::create(dir.path().join("appends"))?;
    let mut walls = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        file.write_all(&[7; PAGE])?;
        file.sync_data()?;
        walls.push(ms(began.elapsed()));
    }
    Ok(walls)
}
