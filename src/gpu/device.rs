//! The adapter and its device: opening them, memory, errors, reading back.

use crate::error::{Error, Result};
use futures_channel::oneshot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use wgpu::BufferUsages;

/// An open device. Whatever goes wrong on it becomes an [`Error::Gpu`].
pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub adapter: wgpu::AdapterInfo,
    /// Why the device can't be used any more.
    lost: Arc<Mutex<Option<String>>>,
    /// The first error that no [`Watch`] saw.
    stray: Arc<Mutex<Option<String>>>,
    pub occupied: Arc<Occupied>,
}

/// A buffer whose memory goes back as soon as nobody holds it; a browser would wait for its garbage collector.
pub struct Memory(pub wgpu::Buffer, Arc<Occupied>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.destroy();
        self.1.now.fetch_sub(self.0.size(), Ordering::Relaxed);
    }
}

/// Bytes of all buffers on a device.
#[derive(Default)]
pub struct Occupied {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Occupied {
    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// From now on the peak is what comes.
    pub fn forget_peak(&self) {
        self.peak.store(self.now(), Ordering::Relaxed);
    }

    /// The most at any time so far.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Catches what the device reports between [`Gpu::watch`] and [`Watch::end`].
#[must_use]
pub struct Watch {
    validation: wgpu::ErrorScopeGuard,
    memory: wgpu::ErrorScopeGuard,
    stray: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens the best adapter with WebGPU's default limits and no optional feature, so that what runs here runs anywhere.
    pub async fn open() -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle().with_env());
        let options = wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
        let adapter = instance.request_adapter(&options).await;
        let adapter = adapter.map_err(|e| Error::Gpu(format!("no graphics adapter that supports WebGPU was found ({e})")))?;
        let descriptor = wgpu::DeviceDescriptor { label: Some("detrim"), ..Default::default() };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| Error::Gpu(format!("the adapter gives no device: {e}")))?;

        let lost = Arc::new(Mutex::new(None));
        let stray = Arc::new(Mutex::new(None));
        let note = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            let message = if message.is_empty() { format!("{reason:?}") } else { message };
            keep_first(&note, message);
        });
        let note = stray.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| keep_first(&note, error.to_string())));
        Ok(Self { device, queue, adapter: adapter.get_info(), lost, stray, occupied: Arc::default() })
    }

    /// Whether the adapter is a program on the processor (SwiftShader, lavapipe, WARP).
    pub fn is_software(&self) -> bool {
        self.adapter.device_type == wgpu::DeviceType::Cpu
    }

    /// Why the device can't be used any more, if so.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().map_or_else(|e| e.into_inner().clone(), |lost| lost.clone())
    }

    /// Memory for `bytes` bytes of storage, which must not exceed what one binding may have.
    pub fn allocate(&self, label: &str, bytes: usize) -> Result<Memory> {
        let limit = self.device.limits().max_storage_buffer_binding_size;
        if bytes as u64 > limit {
            let message = format!("{label} needs {} MiB, more than the {} MiB that a buffer may have", bytes.div_ceil(1 << 20), limit >> 20);
            return Err(Error::Gpu(message));
        }
        Ok(self.create(label, bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST))
    }

    /// A buffer of at least `bytes` bytes for any other use.
    pub fn create(&self, label: &str, bytes: usize, usage: BufferUsages) -> Memory {
        let size = (bytes.max(16) as u64).next_multiple_of(4);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false });
        self.occupied.add(size);
        Memory(buffer, self.occupied.clone())
    }

    /// Memory that holds `bytes`, whose number is a multiple of 4.
    pub fn upload(&self, label: &str, bytes: &[u8]) -> Result<Memory> {
        let memory = self.allocate(label, bytes.len())?;
        self.queue.write_buffer(&memory.0, 0, bytes);
        Ok(memory)
    }

    /// Starts catching errors.
    pub fn watch(&self) -> Watch {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        Watch { validation, memory: self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory), stray: self.stray.clone() }
    }

    /// The first `bytes` bytes of a buffer that may be mapped, when the work submitted so far is done.
    pub async fn read(&self, staging: &wgpu::Buffer, bytes: usize) -> Result<Vec<u8>> {
        let (done, wait) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..bytes as u64, move |result| {
            // Nobody listens any more: nothing to tell.
            let _ = done.send(result);
        });
        self.wait()?;
        match wait.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(self.trouble("the result can't be read back")),
        }
        let view = staging.get_mapped_range(..bytes as u64).map_err(|e| Error::Gpu(format!("the result can't be read back: {e}")))?;
        let data = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(data)
    }

    /// Drives the device until the submitted work is done; browsers do so by themselves.
    fn wait(&self) -> Result<()> {
        let result = self.device.poll(wgpu::PollType::wait_indefinitely());
        result.map(drop).map_err(|e| self.trouble(&e.to_string()))
    }

    /// Fails if the device is lost or reported an error that nobody caught.
    pub fn check(&self) -> Result<()> {
        let stray = self.stray.lock().map_or(None, |mut stray| stray.take());
        match (self.lost(), stray) {
            (Some(_), _) => Err(self.trouble("")),
            (None, Some(message)) => Err(Error::Gpu(message)),
            (None, None) => Ok(()),
        }
    }

    /// The most telling error: that the device is lost, else `otherwise`.
    fn trouble(&self, otherwise: &str) -> Error {
        Error::Gpu(self.lost().map_or(otherwise.into(), |reason| format!("the device was lost: {reason}")))
    }
}

impl Watch {
    /// The first error since [`Gpu::watch`]; memory before anything that follows from its lack.
    pub async fn end(self) -> Result<()> {
        // Both scopes end here and now, whatever is awaited later.
        let (memory, validation) = (self.memory.pop(), self.validation.pop());
        if memory.await.is_some() {
            return Err(Error::Gpu("out of graphics memory".into()));
        }
        let Some(error) = validation.await else { return Ok(()) };
        // What went wrong before explains what goes wrong now.
        let earlier = self.stray.lock().map_or(None, |mut stray| stray.take());
        Err(Error::Gpu(earlier.unwrap_or(error.to_string())))
    }
}

fn keep_first(note: &Mutex<Option<String>>, message: String) {
    if let Ok(mut note) = note.lock() {
        note.get_or_insert(message);
    }
}
