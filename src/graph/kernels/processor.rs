//! One kernel, compiled for what the processor can do.

/// A loop over numbers that gains from wide vectors. Everything down to the innermost loop has to
/// be `#[inline(always)]`: only what is inlined into [`run`] is compiled for its instructions.
pub trait Kernel {
    /// The loop, with the fastest arithmetic that the processor has.
    fn run<A: Arithmetic>(self);
}

/// How to multiply and add.
pub trait Arithmetic {
    /// `a * b + c`.
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// Rounds once, in one instruction.
struct Fused;

/// Rounds twice; where there is no instruction for it, a fused one would be a slow function call.
#[cfg(not(target_arch = "aarch64"))]
struct Separate;

impl Arithmetic for Fused {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[cfg(not(target_arch = "aarch64"))]
impl Arithmetic for Separate {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Runs `kernel` with AVX2 and FMA where an x86 processor has them; every aarch64 processor has
/// what the compiler takes there by itself.
pub fn run<K: Kernel>(kernel: K) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2<K: Kernel>(kernel: K) {
            kernel.run::<Fused>();
        }
        // SAFETY: the processor has just said that it has both features.
        #[allow(unsafe_code)]
        return unsafe { with_avx2(kernel) };
    }
    #[cfg(target_arch = "aarch64")]
    kernel.run::<Fused>();
    #[cfg(not(target_arch = "aarch64"))]
    kernel.run::<Separate>();
}
