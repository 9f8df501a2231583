//! Softmax regression on radial basis functions: the kernel trick, for classes that no hyperplane
//! divides.

use half::f16;

use super::{HeadError, Linear, dot};

/// `logit[c] = sum_i weights[c][i] k(x, z_i) + bias[c]` with `k(x, z) = exp((cos(x, z) - 1) / b)`.
/// Between unit vectors that is the Gaussian kernel `exp(-|x - z|^2 / 2b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// The landmarks `z_i`: unit-length rows, landmarks x width.
    landmarks: Vec<f16>,
    width: usize,
    bandwidth: f32,
    /// Classes x landmarks.
    output: Linear,
}

impl Kernel {
    /// `landmarks` are unit-length rows of `width`; `output` has one column a landmark.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] for unlike sizes or a bandwidth that is not positive.
    pub fn new(
        landmarks: Vec<f16>,
        width: usize,
        bandwidth: f32,
        output: Linear,
    ) -> Result<Self, HeadError> {
        let consistent = width > 0
            && output.weights().columns().checked_mul(width) == Some(landmarks.len())
            && bandwidth.is_finite()
            && bandwidth > 0.0;
        if !consistent {
            return Err(HeadError::Inconsistent(
                "the kernel's landmarks and weights disagree".into(),
            ));
        }
        Ok(Self { landmarks, width, bandwidth, output })
    }

    /// Unit-length rows, landmarks x width.
    pub fn landmarks(&self) -> &[f16] {
        &self.landmarks
    }

    /// Width of a landmark.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `b` of the kernel.
    pub fn bandwidth(&self) -> f32 {
        self.bandwidth
    }

    /// Classes x landmarks.
    pub fn output(&self) -> &Linear {
        &self.output
    }

    /// Scores of one transformed embedding.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        let (features, _, _) = self.features(x);
        self.output.logits(&features)
    }

    /// Gradient of `sum(cotangent * logits)` with respect to the transformed embedding `x`.
    pub fn vjp(&self, x: &[f32], cotangent: &[f32]) -> Vec<f32> {
        let (features, unit, length) = self.features(x);
        let mut gradient = vec![0.0_f32; self.width];
        if length <= 1e-12 {
            return gradient;
        }
        let mut along = 0.0;
        for ((weight, feature), landmark) in self
            .output
            .vjp(cotangent)
            .iter()
            .zip(&features)
            .zip(self.landmarks.chunks_exact(self.width))
        {
            let factor = weight * feature / (self.bandwidth * length);
            for ((g, z), u) in gradient.iter_mut().zip(landmark).zip(&unit) {
                *g += factor * z.to_f32();
                along += factor * z.to_f32() * u;
            }
        }
        gradient.iter_mut().zip(&unit).for_each(|(g, u)| *g -= along * u);
        gradient
    }

    /// The kernel at every landmark, the unit vector and the length of `x`.
    fn features(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>, f32) {
        use half::slice::HalfFloatSliceExt;
        let length = dot(x, x).sqrt();
        let unit: Vec<f32> = x.iter().map(|v| v / length.max(1e-12)).collect();
        let mut row = vec![0.0_f32; self.width];
        let features = self
            .landmarks
            .chunks_exact(self.width)
            .map(|landmark| {
                landmark.convert_to_f32_slice(&mut row);
                ((dot(&row, &unit) - 1.0) / self.bandwidth).exp()
            })
            .collect();
        (features, unit, length)
    }
}
