package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// CORS is the CORS filter of an HTTPRoute, with origins of any port added, which
// servers of development have.
//
// +kubebuilder:validation:XValidation:rule="!has(self.allowOrigins) || !has(self.allowCredentials) || !self.allowCredentials || !('*' in self.allowOrigins)",message="allowCredentials cannot be combined with the origin *: any site could then act for the user"
type CORS struct {
	// AllowOrigins are the sites that may call: https://app.example.com,
	// https://*.example.com, http://localhost:* (any port), or * alone.
	//
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	AllowOrigins []CORSOrigin `json:"allowOrigins,omitempty"`
	// AllowCredentials lets browsers send cookies and credentials.
	AllowCredentials *bool `json:"allowCredentials,omitempty"`
	// AllowMethods beside the simple ones; * is all.
	//
	// +listType=set
	// +kubebuilder:validation:MaxItems=9
	AllowMethods []gatewayv1.HTTPMethodWithWildcard `json:"allowMethods,omitempty"`
	// AllowHeaders of requests; * is all.
	//
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	AllowHeaders []gatewayv1.HTTPHeaderName `json:"allowHeaders,omitempty"`
	// ExposeHeaders of responses to scripts; * is all.
	//
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	ExposeHeaders []gatewayv1.HTTPHeaderName `json:"exposeHeaders,omitempty"`
	// MaxAge is how long browsers remember the answer, in seconds; they choose
	// when it is 0.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	MaxAge int32 `json:"maxAge,omitempty"`
}

// CORSOrigin is an origin, in which *. begins the host of any subdomain and * is
// any port.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^(\*|[A-Za-z][-+.A-Za-z0-9]*://((\*\.)?[-_.A-Za-z0-9]+|\[[0-9A-Fa-f:.]+\])(:([0-9]{1,5}|\*))?)$`
type CORSOrigin string

// Filter is the same as an HTTPRoute says it.
func (c *CORS) Filter() *gatewayv1.HTTPCORSFilter {
	origins := make([]gatewayv1.CORSOrigin, len(c.AllowOrigins))
	for i, origin := range c.AllowOrigins {
		origins[i] = gatewayv1.CORSOrigin(origin)
	}
	return &gatewayv1.HTTPCORSFilter{
		AllowOrigins: origins, AllowCredentials: c.AllowCredentials, AllowMethods: c.AllowMethods,
		AllowHeaders: c.AllowHeaders, ExposeHeaders: c.ExposeHeaders, MaxAge: c.MaxAge,
	}
}
