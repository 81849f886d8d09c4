//! From numbers to places, and which numbers to write at an axis.

/// An axis along pixels.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Scale {
    /// The numbers at both ends.
    pub(super) numbers: (f64, f64),
    /// Their places.
    pub(super) places: (f64, f64),
    /// Equal distances are equal factors, but for the 1 that is added so that 0 has a place.
    pub(super) logarithmic: bool,
}

impl Scale {
    pub(super) fn at(&self, number: f64) -> f64 {
        let of = |number: f64| match self.logarithmic {
            true => number.max(0.0).ln_1p(),
            false => number,
        };
        let (from, to) = (of(self.numbers.0), of(self.numbers.1));
        let share = (of(number) - from) / (to - from);
        self.places.0 + share * (self.places.1 - self.places.0)
    }
}

/// Round numbers for a logarithmic axis from 0 to `most`.
pub(super) fn log_ticks(most: u64) -> Vec<u64> {
    let mut ticks = vec![0, 1];
    let mut unit = 1u64;
    while ticks.last().is_some_and(|&last| last < most) {
        ticks.extend([2, 5, 10].map(|of| unit.saturating_mul(of)));
        unit = unit.saturating_mul(10);
    }
    let last = ticks.iter().position(|&tick| tick >= most);
    ticks.truncate(last.map_or(ticks.len(), |last| last + 1));
    ticks
}

/// Round numbers from `from` to `to`, about `count` of them.
pub(super) fn ticks(from: f64, to: f64, count: f64) -> Vec<f64> {
    let rough = (to - from) / count;
    let unit = 10f64.powf(rough.log10().floor());
    let fits = |of: &f64| of * unit >= rough;
    let step = [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * unit;
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(log_ticks(200), [0, 1, 2, 5, 10, 20, 50, 100, 200]);
        assert_eq!(log_ticks(1), [0, 1]);
        assert_eq!(log_ticks(17), [0, 1, 2, 5, 10, 20]);
        assert_eq!(ticks(-40.0, 240.0, 5.0), [0.0, 100.0, 200.0]);
        assert_eq!(ticks(-0.8, 4.0, 5.0), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn nought_has_a_place_on_a_logarithmic_axis() {
        let scale = Scale {
            numbers: (0.0, 99.0),
            places: (100.0, 0.0),
            logarithmic: true,
        };
        assert_eq!(
            [0.0, 9.0, 99.0].map(|of| scale.at(of).round()),
            [100.0, 50.0, 0.0]
        );
    }
}
