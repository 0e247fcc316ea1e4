package rulesfile

import (
	"time"

	"weir.dev/kit/config"
)

// object is what every document says; spec is read for RateLimitPolicies alone.
type object struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   map[string]any `yaml:"metadata"`
}

// policyObject is a RateLimitPolicy, weir.dev/v1alpha1.
type policyObject struct {
	object `yaml:",inline"`
	Spec   struct {
		TargetRefs any     `yaml:"targetRefs"`
		Limits     []limit `yaml:"limits"`
		Defaults   *block  `yaml:"defaults"`
		Overrides  *block  `yaml:"overrides"`
	} `yaml:"spec"`
	Status any `yaml:"status"`
}

type block struct {
	Strategy string  `yaml:"strategy"`
	Limits   []limit `yaml:"limits"`
}

// window is what a limit says by itself, or each of its windows.
type window struct {
	Requests  *uint32         `yaml:"requests"`
	Window    config.Duration `yaml:"window"`
	Calendar  string          `yaml:"calendar"`
	TimeZone  string          `yaml:"timeZone"`
	Algorithm string          `yaml:"algorithm"`
	Burst     uint32          `yaml:"burst"`
	Tiers     map[string]tier `yaml:"tiers"`
}

type limit struct {
	window  `yaml:",inline"`
	Name    string   `yaml:"name"`
	Windows []window `yaml:"windows"`
	Cost    *struct {
		Number         *uint32 `yaml:"number"`
		RequestHeader  string  `yaml:"requestHeader"`
		Expression     string  `yaml:"expression"`
		ResponseHeader string  `yaml:"responseHeader"`
		ResponseField  string  `yaml:"responseField"`
		Max            uint32  `yaml:"max"`
	} `yaml:"cost"`
	CountRefused bool `yaml:"countRefused"`
	Reserves     []struct {
		Tier    string `yaml:"tier"`
		Percent uint32 `yaml:"percent"`
	} `yaml:"reserves"`
	Override *struct {
		Attribute string `yaml:"attribute"`
		Claim     string `yaml:"claim"`
		Max       uint32 `yaml:"max"`
	} `yaml:"override"`
	FailureMode string   `yaml:"failureMode"`
	LocalShare  bool     `yaml:"localShare"`
	Leased      bool     `yaml:"leased"`
	Shadow      bool     `yaml:"shadow"`
	Headers     []string `yaml:"headers"`
	By          []struct {
		Type   string `yaml:"type"`
		Header string `yaml:"header"`
	} `yaml:"by"`
	TierFrom *struct {
		Attribute string `yaml:"attribute"`
		Claim     string `yaml:"claim"`
	} `yaml:"tierFrom"`
	Mode string `yaml:"mode"`
}

type tier struct {
	Requests  *uint32 `yaml:"requests"`
	Burst     uint32  `yaml:"burst"`
	Unlimited bool    `yaml:"unlimited"`
}

// Bounds of a window, as in the policy.
const (
	minWindow = time.Second
	maxWindow = 744 * time.Hour
)
