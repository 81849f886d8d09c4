//! Medians, and how far the rounds are from them.

/// Some values of the same thing, from as many rounds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    /// Of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Spread { sorted }
    }

    /// The value in the middle, or the middle of the two there; 0 of none.
    pub fn median(&self) -> f64 {
        let len = self.sorted.len();
        if len == 0 {
            return 0.0;
        }
        (self.sorted[(len - 1) / 2] + self.sorted[len / 2]) / 2.0
    }

    /// The smallest; 0 of none.
    pub fn min(&self) -> f64 {
        self.sorted.first().copied().unwrap_or_default()
    }

    /// The greatest; 0 of none.
    pub fn max(&self) -> f64 {
        self.sorted.last().copied().unwrap_or_default()
    }
}

/// The value below which `percent` of the values are. Reorders them.
pub(crate) fn percentile(values: &mut [u32], percent: usize) -> u32 {
    if values.is_empty() {
        return 0;
    }
    let at = (values.len() - 1) * percent / 100;
    *values.select_nth_unstable(at).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.min(), odd.median(), odd.max()), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).median(), 2.5);
        assert_eq!(Spread::of([]).median(), 0.0);
    }

    #[test]
    fn percentiles() {
        let mut values: Vec<u32> = (1..=101).rev().collect();
        assert_eq!(percentile(&mut values, 50), 51);
        assert_eq!(percentile(&mut values, 99), 100);
        assert_eq!(percentile(&mut [], 50), 0);
    }
}
