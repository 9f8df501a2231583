//! What happens to an embedding before the classifier sees it.

use super::{HeadError, dot};

/// A length below this counts as zero: the zero embedding stays zero instead of becoming NaN.
const TINY: f32 = 1e-12;

/// One step of a [`Transform`].
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// `x / |x|`: Euclidean length 1 (an all-zero embedding stays zero).
    UnitLength,
    /// `(x - mean) * scale`, element by element; `scale` is one over the standard deviation.
    Standardise {
        /// Mean of every feature.
        mean: Vec<f32>,
        /// One over the standard deviation of every feature; 1 where a feature never varies.
        scale: Vec<f32>,
    },
}

/// A sequence of steps, part of the head: what was done in training is done in prediction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transform {
    steps: Vec<Step>,
}

impl Transform {
    /// Most steps that a transform may have.
    pub const MAX_STEPS: usize = 4;

    /// The steps in the order of application; none leaves the embedding as it is.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] for too many steps or a mean and scale of unlike lengths.
    pub fn new(steps: Vec<Step>) -> Result<Self, HeadError> {
        if steps.len() > Self::MAX_STEPS {
            return Err(HeadError::Inconsistent(format!("{} transform steps", steps.len())));
        }
        for step in &steps {
            if let Step::Standardise { mean, scale } = step
                && mean.len() != scale.len()
            {
                return Err(HeadError::Inconsistent(format!(
                    "a standardisation has {} means and {} scales",
                    mean.len(),
                    scale.len()
                )));
            }
        }
        Ok(Self { steps })
    }

    /// The steps in the order of application.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the steps fit embeddings of this width.
    pub fn fits(&self, width: usize) -> bool {
        self.steps.iter().all(|step| match step {
            Step::UnitLength => true,
            Step::Standardise { mean, .. } => mean.len() == width,
        })
    }

    /// Transforms one embedding in place.
    pub fn apply(&self, embedding: &mut [f32]) {
        for step in &self.steps {
            apply_step(step, embedding);
        }
    }

    /// Pulls a gradient back: given `gradient` with respect to the transformed embedding, leaves in
    /// it the gradient with respect to `embedding`.
    pub fn vjp(&self, embedding: &[f32], gradient: &mut [f32]) {
        let mut inputs = Vec::with_capacity(self.steps.len());
        let mut current = embedding.to_vec();
        for step in &self.steps {
            inputs.push(current.clone());
            apply_step(step, &mut current);
        }
        for (step, input) in self.steps.iter().zip(&inputs).rev() {
            match step {
                Step::UnitLength => {
                    // d(x/|x|) = (I - u u') / |x|
                    let length = dot(input, input).sqrt();
                    if length <= TINY {
                        gradient.fill(0.0);
                        continue;
                    }
                    let along = dot(input, gradient) / (length * length);
                    for (g, &x) in gradient.iter_mut().zip(input) {
                        *g = (*g - along * x) / length;
                    }
                }
                Step::Standardise { scale, .. } => {
                    for (g, &s) in gradient.iter_mut().zip(scale) {
                        *g *= s;
                    }
                }
            }
        }
    }

    /// If the transform is affine, `x -> scale * x + offset` per feature; `None` if it normalises
    /// lengths.
    pub fn affine(&self, width: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        let mut total = vec![1.0_f32; width];
        let mut offset = vec![0.0_f32; width];
        for step in &self.steps {
            let Step::Standardise { mean, scale } = step else { return None };
            for i in 0..width {
                let s = *scale.get(i)?;
                total[i] *= s;
                offset[i] = (offset[i] - mean.get(i)?) * s;
            }
        }
        Some((total, offset))
    }
}

fn apply_step(step: &Step, x: &mut [f32]) {
    match step {
        Step::UnitLength => {
            let length = dot(x, x).sqrt();
            if length > TINY {
                for value in x {
                    *value /= length;
                }
            }
        }
        Step::Standardise { mean, scale } => {
            for ((value, &m), &s) in x.iter_mut().zip(mean).zip(scale) {
                *value = (*value - m) * s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Transform {
        Transform::new(vec![
            Step::UnitLength,
            Step::Standardise { mean: vec![0.1, 0.2, 0.3], scale: vec![2.0, 3.0, 0.5] },
        ])
        .unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let transform = both();
        let x = [0.4_f32, -0.7, 1.1];
        let cotangent = [0.3_f32, -1.0, 2.0];
        let mut gradient = cotangent.to_vec();
        transform.vjp(&x, &mut gradient);
        for i in 0..3 {
            let value = |delta: f32| {
                let mut y = x;
                y[i] += delta;
                transform.apply(&mut y);
                f64::from(dot(&y, &cotangent))
            };
            let numeric = (value(1e-2) - value(-1e-2)) / 2e-2;
            assert!((numeric - f64::from(gradient[i])).abs() < 2e-3, "feature {i}");
        }
    }

    #[test]
    fn an_all_zero_embedding_stays_finite() {
        let mut x = [0.0_f32; 3];
        both().apply(&mut x);
        assert!(x.iter().all(|v| v.is_finite()));
        let mut gradient = [1.0_f32; 3];
        both().vjp(&[0.0; 3], &mut gradient);
        assert_eq!(gradient, [0.0; 3]);
    }

    #[test]
    fn only_a_transform_without_length_normalisation_is_affine() {
        assert!(both().affine(3).is_none());
        let standardise = Transform::new(both().steps()[1..].to_vec()).unwrap();
        let (scale, offset) = standardise.affine(3).unwrap();
        let mut x = [1.0_f32, 2.0, 3.0];
        let expected: Vec<f32> = (0..3).map(|i| scale[i] * x[i] + offset[i]).collect();
        standardise.apply(&mut x);
        assert!(x.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
