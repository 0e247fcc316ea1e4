package v1alpha1

// MergeStrategy says how policies of one kind that reach the same rule of a route
// are put together (GEP-713, merge strategies). They are taken from the most
// specific (rule, route, listener, gateway) to the least specific, and each one's
// strategy says what becomes of those before it:
//
//   - defaults, atomic: nothing, if there are any; else it is in effect;
//   - defaults, merge: it adds what they do not say;
//   - overrides, atomic: it replaces them;
//   - overrides, merge: it replaces what it says too, and they keep the rest.
//
// On one target overrides come first, then the older, then the first by namespace
// and name. What the first says is never replaced by the others', and with strategy
// atomic it admits none beside it.
//
// +kubebuilder:validation:Enum=atomic;merge
type MergeStrategy string

// Strategies.
const (
	StrategyAtomic MergeStrategy = "atomic"
	StrategyMerge  MergeStrategy = "merge"
)

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *AuthBlock) Said() (MergeStrategy, *AuthSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.AuthSettings
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *RateLimitBlock) Said() (MergeStrategy, *RateLimitSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.RateLimitSettings
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *TrafficBlock) Said() (MergeStrategy, *TrafficSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.TrafficSettings
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *TLSBlock) Said() (MergeStrategy, *TLSSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.TLSSettings
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *HeaderBlock) Said() (MergeStrategy, *HeaderSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.HeaderSettings
}

// Said is the strategy, if any, and the settings; both empty for a nil block.
func (b *EdgeBlock) Said() (MergeStrategy, *EdgeSettings) {
	if b == nil {
		return "", nil
	}
	return b.Strategy, &b.EdgeSettings
}
