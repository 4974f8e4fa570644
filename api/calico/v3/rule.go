package v3

import "k8s.io/apimachinery/pkg/util/intstr"

// Action is applied to connections that match. Pass continues with the next tier, Log with the
// next rule.
//
// +kubebuilder:validation:Enum=Allow;Deny;Log;Pass
type Action string

// The actions.
const (
	Allow Action = "Allow"
	Deny  Action = "Deny"
	Log   Action = "Log"
	Pass  Action = "Pass"
)

// PolicyType is a direction that a policy is for.
//
// +kubebuilder:validation:Enum=Ingress;Egress
type PolicyType string

// The directions.
const (
	PolicyTypeIngress PolicyType = "Ingress"
	PolicyTypeEgress  PolicyType = "Egress"
)

// A Rule matches a connection that meets all its conditions. Source is the end that opens the
// connection, for ingress and for egress.
//
// +kubebuilder:validation:XValidation:rule="!has(self.http) || !has(self.protocol) || self.protocol == 'TCP' || self.protocol == 6",message="http is for protocol TCP",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.http) || self.action == 'Allow'",message="http is for action Allow",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.destination) || !has(self.destination.services) || ((!has(self.destination.ports) || size(self.destination.ports) == 0) && (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0))",message="destination.services has its own ports: leave out destination.ports and destination.notPorts",reason=FieldValueForbidden
type Rule struct {
	// Action is applied to connections that match.
	Action Action `json:"action"`
	// IPVersion, 4 or 6, restricts the rule to one family.
	// +kubebuilder:validation:Enum=4;6
	// +optional
	IPVersion *int `json:"ipVersion,omitempty"`
	// Protocol is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255. Ports need one
	// that has ports.
	// +optional
	Protocol *intstr.IntOrString `json:"protocol,omitempty"`
	// ICMP restricts the rule to a type of ICMP, or ICMPv6.
	// +optional
	ICMP *ICMPFields `json:"icmp,omitempty"`
	// NotProtocol is a protocol that the rule does not match.
	// +optional
	NotProtocol *intstr.IntOrString `json:"notProtocol,omitempty"`
	// NotICMP is a type of ICMP that the rule does not match.
	// +optional
	NotICMP *ICMPFields `json:"notICMP,omitempty"`
	// Source restricts the end that opens the connection.
	// +optional
	Source EntityRule `json:"source,omitzero"`
	// Destination restricts the end that the connection goes to.
	// +optional
	Destination EntityRule `json:"destination,omitzero"`
	// HTTP restricts the rule to requests.
	// +optional
	HTTP *HTTPMatch `json:"http,omitempty"`
	// Metadata of the rule; it has no effect.
	// +optional
	Metadata *RuleMetadata `json:"metadata,omitempty"`
}

// ICMPFields is a type of ICMP, and a code of it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.code) || has(self.type)",message="code needs type",reason=FieldValueInvalid
type ICMPFields struct {
	// Type is from 0 to 254; 8 is an echo request of IPv4.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	// +optional
	Type *int `json:"type,omitempty"`
	// Code is from 0 to 255, and needs a type.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	// +optional
	Code *int `json:"code,omitempty"`
}

// EntityRule restricts one end of a connection: all its conditions must hold.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !self.selector.contains('global(')",message="global() is for namespaceSelector",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.notSelector) || !self.notSelector.contains('global(')",message="global() is for namespaceSelector",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.services) || (has(self.services.name) && size(self.services.name) > 0)",message="services needs name",reason=FieldValueRequired
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !has(self.namespaceSelector) || size(self.namespaceSelector) == 0",message="services and namespaceSelector exclude each other",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !has(self.serviceAccounts)",message="services and serviceAccounts exclude each other",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.services) || ((!has(self.selector) || size(self.selector) == 0) && (!has(self.notSelector) || size(self.notSelector) == 0))",message="services and selector, notSelector exclude each other",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="!has(self.services) || ((!has(self.nets) || size(self.nets) == 0) && (!has(self.notNets) || size(self.notNets) == 0))",message="services and nets, notNets exclude each other",reason=FieldValueForbidden
type EntityRule struct {
	// Nets are networks in CIDR notation, or addresses, one of which must contain the address.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	// +optional
	Nets []string `json:"nets,omitempty"`
	// Selector is a selector of pods and of network sets. In a namespaced policy without
	// namespaceSelector it selects in the policy's namespace.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`
	// NamespaceSelector is a selector of namespaces, to which the other selectors are restricted.
	// global() selects what is in no namespace.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`
	// Services matches the endpoints of a Service, at their ports if it is the destination.
	// +optional
	Services *ServiceMatch `json:"services,omitempty"`
	// Ports are numbers, ranges as "first:last", or names of ports of the pod at this end.
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	// +optional
	Ports []intstr.IntOrString `json:"ports,omitempty"`
	// NotNets are networks that must not contain the address.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	// +optional
	NotNets []string `json:"notNets,omitempty"`
	// NotSelector selects pods and network sets that must not have the address. Addresses of
	// no pod and no network set always match.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NotSelector string `json:"notSelector,omitempty"`
	// NotPorts are ports as in ports, that do not match.
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	// +optional
	NotPorts []intstr.IntOrString `json:"notPorts,omitempty"`
	// ServiceAccounts matches pods by their service account.
	// +optional
	ServiceAccounts *ServiceAccountMatch `json:"serviceAccounts,omitempty"`
}

// ServiceMatch names a Service.
type ServiceMatch struct {
	// Name of the Service.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Name string `json:"name,omitempty"`
	// Namespace of the Service; in a namespaced policy its own if empty.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountMatch matches service accounts by name and by label; both must hold.
type ServiceAccountMatch struct {
	// Names is a list of names, one of which it must have. Empty: any.
	// +listType=set
	// +optional
	Names []string `json:"names,omitempty"`
	// Selector is a selector of the service account's labels.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`
}

// HTTPMatch matches requests with one of the methods and one of the paths.
type HTTPMatch struct {
	// Methods, for example GET. Empty: any.
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	Methods []string `json:"methods,omitempty"`
	// Paths of requests. Empty: any.
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	Paths []HTTPPath `json:"paths,omitempty"`
}

// HTTPPath is a path, or a prefix of paths.
type HTTPPath struct {
	// Exact is the whole path.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Exact string `json:"exact,omitempty"`
	// Prefix is a prefix of the path.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Prefix string `json:"prefix,omitempty"`
}

// RuleMetadata has annotations of a rule.
type RuleMetadata struct {
	// Annotations of the rule.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
