//! Which variant of the matrix product is fastest on this adapter: measured when a network is loaded, and remembered.
//!
//! Workgroup memory makes a GPU faster and a software adapter slower, and phones differ. The likely winner goes first, since
//! compiling alone can use up the time that measuring may take.

use super::gemm::{Matrix, Variant};
use super::packing::Packing;
use super::recorder::Recorder;
use crate::backend::Backend;
use crate::config::Activation;
use crate::error::Result;
use crate::weights::{Channels, Data, HostTensor, Int8};
use half::f16;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use web_time::Instant;

/// After this much time no further variant is tried.
const PATIENCE: Duration = Duration::from_millis(250);
/// Work that is measured should take about so long.
const WORTHWHILE: Duration = Duration::from_millis(4);
const MOST_REPEATS: u128 = 64;
/// A linear map from `WIDTH` to `WIDTH`, as a transformer's: few rows in a decoder, many in an encoder or a backbone.
const WIDTH: usize = 256;
const FEW: usize = 100;
const MANY: usize = 1600;
/// No graphics hardware is so slow on few rows; a software adapter that doesn't say what it is is.
const SLOW: Duration = Duration::from_millis(4);

/// An adapter, and how weights are packed.
type Case = (String, Packing);
static KNOWN: Mutex<Option<HashMap<Case, [Variant; 2]>>> = Mutex::new(None);

/// Sets the recorder's variants for large and for small outputs.
pub async fn choose(recorder: &mut Recorder, packing: Packing) -> Result<()> {
    let key = (format!("{:?}", recorder.gpu.adapter), packing);
    let known = KNOWN.lock().ok().and_then(|known| known.as_ref()?.get(&key).copied());
    let variants = match known {
        Some(variants) => variants,
        None => measure(recorder, packing).await?,
    };
    recorder.variants = variants;
    if let Ok(mut known) = KNOWN.lock() {
        known.get_or_insert_default().insert(key, variants);
    }
    Ok(())
}

async fn measure(recorder: &mut Recorder, packing: Packing) -> Result<[Variant; 2]> {
    let data = match packing {
        Packing::Full => Data::F32(vec![0.01; WIDTH * WIDTH]),
        Packing::Half => Data::F16(vec![f16::from_f32_const(0.01); WIDTH * WIDTH]),
        Packing::Int8 => Data::I8(Int8 { values: vec![1; WIDTH * WIDTH], scales: vec![0.01; WIDTH], channels: Channels::First }),
    };
    let matrix = recorder.load_linear("tuning", &HostTensor { shape: vec![WIDTH, WIDTH], data }, &HostTensor::f32(&[WIDTH], vec![0.0; WIDTH]))?;
    let mut software = recorder.gpu.is_software();
    let mut candidates = Variant::ALL.to_vec();
    let mut best = [(Variant::ALL[0], Duration::MAX); 2];
    let began = Instant::now();
    while !candidates.is_empty() && began.elapsed() < PATIENCE {
        let variant = candidates.remove(if software { candidates.len() - 1 } else { 0 });
        recorder.variants = [variant; 2];
        let few = time(recorder, &matrix, FEW).await?;
        software |= few > SLOW;
        // What takes a processor a second needn't be measured: few rows tell it already.
        let many = if software { few * (MANY / FEW) as u32 } else { time(recorder, &matrix, MANY).await? };
        for (best, time) in best.iter_mut().zip([many, few]) {
            if time < best.1 {
                *best = (variant, time);
            }
        }
    }
    if software && best[0].0.is_tiled() && candidates.len() == Variant::ALL.len() - 1 {
        // It took all the time to find out that this is a processor.
        return Ok([Variant::ALL[Variant::ALL.len() - 1]; 2]);
    }
    Ok(best.map(|(variant, _)| variant))
}

/// How long one linear map of so many rows takes. The way to the adapter and back, which can take longer, is not counted:
/// it is the same for one map and for many.
async fn time(recorder: &Recorder, matrix: &Matrix, rows: usize) -> Result<Duration> {
    // Compiles.
    run(recorder, matrix, rows, 1).await?;
    let one = run(recorder, matrix, rows, 1).await?;
    let repeats = (WORTHWHILE.as_nanos() / one.as_nanos().max(1)).clamp(4, MOST_REPEATS) as u32;
    let many = run(recorder, matrix, rows, repeats).await?.min(run(recorder, matrix, rows, repeats).await?);
    Ok(many.saturating_sub(one) / (repeats - 1))
}

async fn run(recorder: &Recorder, matrix: &Matrix, rows: usize, repeats: u32) -> Result<Duration> {
    recorder.restart();
    let mut x = recorder.input(&[rows, WIDTH])?;
    for _ in 0..repeats {
        x = recorder.linear(&x, matrix, Activation::Relu, None)?;
    }
    let program = recorder.finish(std::slice::from_ref(&x)).await?;
    recorder.restart();
    let start = Instant::now();
    program.run(&recorder.gpu, None).await?;
    Ok(start.elapsed())
}
