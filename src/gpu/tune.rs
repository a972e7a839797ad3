//! Which variant of the matrix product is fastest on this adapter: measured when a network is loaded, and remembered.
//!
//! Workgroup memory makes a GPU faster and a software adapter slower, and phones differ. The likely winner goes first, since
//! compiling alone can use up the time that measuring may take.

use super::gemm::Variant;
use super::recorder::Recorder;
use crate::backend::{Backend, Padding, Window};
use crate::config::Activation;
use crate::error::Result;
use crate::weights::HostTensor;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use web_time::Instant;

/// After this much time no further variant is tried.
const PATIENCE: Duration = Duration::from_millis(120);
/// Work that is measured should take at least so long, or the way to the adapter and back would be measured.
const WORTHWHILE: Duration = Duration::from_millis(5);
const MOST_REPEATS: u32 = 64;

/// By adapter, and whether weights are f16.
static KNOWN: Mutex<Option<HashMap<(String, bool), [Variant; 2]>>> = Mutex::new(None);

/// Variants for large and for small outputs.
pub async fn choose(recorder: &mut Recorder, half: bool) -> Result<()> {
    let key = (format!("{:?}", recorder.gpu.adapter), half);
    let known = KNOWN.lock().ok().and_then(|known| known.as_ref()?.get(&key).copied());
    if let Some(variants) = known {
        recorder.variants = variants;
        return Ok(());
    }
    let software = recorder.gpu.is_software();
    let mut candidates = Variant::ALL;
    if software {
        candidates.reverse();
    }
    // A decoder's linear map, and a convolution of a ResNet's first stage.
    let small = fastest(recorder, &candidates, half, [1, 1, 100, 256], 256, Window::new(1, 1, Padding::Even(0))).await?;
    let large = match software {
        true => candidates[0],
        false => fastest(recorder, &candidates, half, [1, 56, 56, 64], 64, Window::new(3, 1, Padding::Even(1))).await?,
    };
    recorder.variants = [large, small];
    if let Ok(mut known) = KNOWN.lock() {
        known.get_or_insert_default().insert(key, [large, small]);
    }
    Ok(())
}

async fn fastest(recorder: &mut Recorder, candidates: &[Variant], half: bool, shape: [usize; 4], out: usize, window: Window) -> Result<Variant> {
    let weight =
        HostTensor::f32(&[out, window.kernel[0], window.kernel[1], shape[3]], vec![0.01; out * window.kernel[0] * window.kernel[1] * shape[3]]);
    let weight = if half { weight.to_f16() } else { weight };
    let began = Instant::now();
    let conv = recorder.load_conv(&weight, &HostTensor::f32(&[out], vec![0.0; out]), window)?;
    let mut best = (candidates[0], Duration::MAX);
    for &variant in candidates {
        if began.elapsed() > PATIENCE {
            break;
        }
        recorder.variants = [variant; 2];
        let mut time = Duration::MAX;
        let mut repeats = 1;
        // The first run compiles.
        for attempt in 0..4 {
            recorder.restart();
            let x = recorder.input(&shape)?;
            let mut y = recorder.conv(&x, &conv, Activation::Relu, None)?;
            for _ in 1..repeats {
                y = recorder.conv(&recorder.reshape(&y, &shape)?, &conv, Activation::Relu, None)?;
            }
            let program = recorder.finish(std::slice::from_ref(&y)).await?;
            let start = Instant::now();
            program.run(&recorder.gpu, None).await?;
            let one = start.elapsed() / repeats;
            if attempt == 0 {
                continue;
            }
            time = time.min(one);
            if began.elapsed() > PATIENCE {
                break;
            }
            if one * repeats < WORTHWHILE {
                let enough = WORTHWHILE.as_nanos() / one.as_nanos().max(1);
                repeats = (enough as u32).clamp(1, MOST_REPEATS);
            }
        }
        if time < best.1 {
            best = (variant, time);
        }
    }
    recorder.restart();
    Ok(best.0)
}
