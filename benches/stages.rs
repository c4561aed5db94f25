//! What each stage of a check costs, with warm caches unless its name says otherwise.
//!
//! ```text
//! cargo bench --bench stages [-- FILTER]
//! ```
//!
//! The checks are those of the load bench. `decode: envoy-types` and `token: bare ES256
//! verification` are no stages of ours: they stand beside for comparison.

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
use criterion::Criterion;

fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("a scratch directory")?;
    let mut criterion = Criterion::default().configure_from_args();
    for mut stage in list::stages(directory.path())? {
        criterion.bench_function(stage.name, |bencher| bencher.iter(|| (stage.run)()));
    }
    criterion.final_summary();
    Ok(())
}
