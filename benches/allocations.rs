//! How many heap allocations each stage of a check makes, with warm caches.
//!
//! ```text
//! cargo bench --bench allocations
//! ```
//!
//! A bench of its own because counting needs an allocator of its own, which would slow what the
//! others time. Counted on the thread that runs the stage; the runtime and HTTP/2 are not in it.

#![expect(clippy::print_stdout, reason = "a bench prints what it counted")]

#[path = "load/corpus.rs"]
#[expect(
    dead_code,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "shared with the load bench, which reads more of it; it reads nothing from outside"
)]
mod corpus;
#[path = "stages/list.rs"]
mod list;

use anyhow::Context as _;

/// Runs before counting, so that what is made once is made: twice around the corpus.
const WARM_UP: u32 = 8192;

/// Runs counted; the mean hides no growth of a table that one run alone would pay for.
const RUNS: u32 = 4096;

fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("a scratch directory")?;
    println!("{:34} {:>12} {:>12}", "per check", "allocations", "bytes");
    for mut stage in list::stages(directory.path())? {
        for _ in 0..WARM_UP {
            (stage.run)();
        }
        let mut total = (0_u64, 0_u64);
        for _ in 0..RUNS {
            let counted = allocation_counter::measure(&mut stage.run);
            total.0 = total.0.saturating_add(counted.count_total);
            total.1 = total.1.saturating_add(counted.bytes_total);
        }
        let mean =
            |total: u64| u32::try_from(total).map_or(f64::INFINITY, f64::from) / f64::from(RUNS);
        println!("{:34} {:>12.1} {:>12.0}", stage.name, mean(total.0), mean(total.1));
    }
    Ok(())
}
