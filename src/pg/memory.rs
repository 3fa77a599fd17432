//! How much freed memory a session keeps.

/// From now on this session keeps freed memory up to 8 MB for its next call. A body of a megabyte is held several times
/// on its way. glibc gives it back to the kernel otherwise, and each call has all of its pages made and zeroed anew
/// (glibc manual, "Malloc Tunable Parameters").
#[cfg(target_env = "gnu")]
pub fn keep_freed_memory() {
    const KEPT: i32 = 8 << 20;
    static KEEPS: std::sync::Once = std::sync::Once::new();
    KEEPS.call_once(|| {
        // SAFETY: sets parameters of this process's allocator; PostgreSQL's processes have one thread.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        }
    });
}

#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}
