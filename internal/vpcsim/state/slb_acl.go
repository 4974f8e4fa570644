package state

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// AccessControlList is a list of clients for listeners.
type AccessControlList struct {
	AclId            string
	AclName          string
	ResourceGroupId  string
	CreateTime       time.Time
	AclEntrys        []AclEntry `json:",omitempty"`
	Tags             []Tag      `json:",omitempty"`
	RelatedListeners []Listener `json:",omitempty"` // filled in results of DescribeAccessControlListAttribute
}

// AclEntry is an entry of an access control list.
type AclEntry struct {
	AclEntryIP      netip.Prefix
	AclEntryComment string `json:",omitempty"`
}

// Types of the access control of a listener: only these clients, or all but these. A list without
// entries serves all clients with both.
const (
	AclWhite = "white"
	AclBlack = "black"
)

// CreateAccessControlListRequest has the parameters of CreateAccessControlList.
type CreateAccessControlListRequest struct {
	AclName          string
	AddressIPVersion string // ipv4
	ResourceGroupId  string
	Tag              []Tag
}

// AccessControlListRequest has the parameters of actions on an access control list that have no
// others.
type AccessControlListRequest struct {
	AclId string
}

// DescribeAccessControlListsRequest has the filters of DescribeAccessControlLists.
type DescribeAccessControlListsRequest struct {
	AclName          string
	AddressIPVersion string
	ResourceGroupId  string
	Tag              []Tag
}

// AccessControlListEntryRequest has the parameters of AddAccessControlListEntry and
// RemoveAccessControlListEntry.
type AccessControlListEntryRequest struct {
	AclId     string
	AclEntrys []AclEntryItem
}

// AclEntryItem is an entry in the list of AclEntrys: an address or a range.
type AclEntryItem struct {
	Entry   string
	Comment string
}

// maxEntriesPerCall is the maximum number of entries in one call.
const maxEntriesPerCall = 50

func (l *AccessControlList) clone() AccessControlList {
	c := *l
	c.AclEntrys = slices.Clone(l.AclEntrys)
	c.Tags = slices.Clone(l.Tags)
	return c
}

func (s *State) acl(id string) (*AccessControlList, error) {
	if id == "" {
		return nil, missing("AclId")
	}
	l, ok := s.data.AccessControlLists[id]
	if !ok {
		return nil, badRequest("AclNotExist", "The specified Acl does not exist (NotFound): %q.", id)
	}
	return l, nil
}

// CreateAccessControlList creates a list without entries.
func (s *State) CreateAccessControlList(req CreateAccessControlListRequest) (aclId string, err error) {
	switch {
	case req.AclName == "":
		return "", missing("AclName")
	case req.AddressIPVersion != "" && req.AddressIPVersion != "ipv4":
		return "", badRequest("UnsupportedParameter", "AddressIPVersion %s is not supported: load balancers here have IPv4.", req.AddressIPVersion)
	case len(s.data.AccessControlLists) >= s.options.Limits.AccessControlLists:
		return "", badRequest("AclNumberOverLimit", "The account has %d access control lists, the most it may have.", len(s.data.AccessControlLists))
	}
	if err := checkName("AclName", req.AclName); err != nil {
		return "", err
	}
	for _, l := range s.data.AccessControlLists {
		if l.AclName == req.AclName {
			return "", badRequest("AclNameExist", "The specified AclName exists: %q.", req.AclName)
		}
	}
	if err := s.checkTags(nil, req.Tag); err != nil {
		return "", err
	}
	l := &AccessControlList{
		AclId: s.newID(idACL), AclName: req.AclName, ResourceGroupId: req.ResourceGroupId, CreateTime: s.now(), Tags: slices.Clone(req.Tag),
	}
	s.data.AccessControlLists[l.AclId] = l
	s.changed(l.AclId)
	return l.AclId, nil
}

// aclUsers returns the listeners that use a list, by load balancer and port.
func (s *State) aclUsers(id string) []Listener {
	var all []Listener
	for _, l := range s.data.Listeners {
		if l.AclId == id {
			all = append(all, l.clone())
		}
	}
	slices.SortFunc(all, byBalancerAndPort)
	return all
}

// DeleteAccessControlList deletes a list that no listener uses.
func (s *State) DeleteAccessControlList(req AccessControlListRequest) error {
	l, err := s.acl(req.AclId)
	if err != nil {
		return err
	}
	if users := s.aclUsers(l.AclId); len(users) > 0 {
		return badRequest("AclInUsed", "The specified Acl %s is used: listener %s.", l.AclId, users[0].ListenerId)
	}
	delete(s.data.AccessControlLists, l.AclId)
	s.changed(l.AclId)
	return nil
}

// DescribeAccessControlLists lists lists, by id, without the listeners that use them.
func (s *State) DescribeAccessControlLists(req DescribeAccessControlListsRequest) ([]AccessControlList, error) {
	found := []AccessControlList{}
	for _, id := range sortedKeys(s.data.AccessControlLists) {
		l := s.data.AccessControlLists[id]
		if is(req.AclName, l.AclName) && is(req.AddressIPVersion, "ipv4") && is(req.ResourceGroupId, l.ResourceGroupId) && hasTags(req.Tag, l.Tags) {
			found = append(found, l.clone())
		}
	}
	return found, nil
}

// DescribeAccessControlListAttribute returns one list.
func (s *State) DescribeAccessControlListAttribute(req AccessControlListRequest) (*AccessControlList, error) {
	l, err := s.acl(req.AclId)
	if err != nil {
		return nil, err
	}
	c := l.clone()
	c.RelatedListeners = s.aclUsers(l.AclId)
	return &c, nil
}

// AddAccessControlListEntry adds entries, all or none. One that is there already gets the new
// comment.
func (s *State) AddAccessControlListEntry(req AccessControlListEntryRequest) error {
	return s.changeEntries(req, func(entries []AclEntry, e AclEntry) []AclEntry {
		if i := slices.IndexFunc(entries, func(old AclEntry) bool { return old.AclEntryIP == e.AclEntryIP }); i >= 0 {
			entries[i] = e
			return entries
		}
		return append(entries, e)
	})
}

// RemoveAccessControlListEntry removes entries. One that is not there is no error.
func (s *State) RemoveAccessControlListEntry(req AccessControlListEntryRequest) error {
	return s.changeEntries(req, func(entries []AclEntry, e AclEntry) []AclEntry {
		return slices.DeleteFunc(entries, func(old AclEntry) bool { return old.AclEntryIP == e.AclEntryIP })
	})
}

// changeEntries calls change for each entry of a request.
func (s *State) changeEntries(req AccessControlListEntryRequest, change func([]AclEntry, AclEntry) []AclEntry) error {
	l, err := s.acl(req.AclId)
	if err != nil {
		return err
	}
	switch n := len(req.AclEntrys); {
	case n == 0:
		return badRequest("AclEntryEmpty", "The specified AclEntrys are empty.")
	case n > maxEntriesPerCall:
		return badRequest("InvalidParameter", "The specified AclEntrys are not valid: %d entries, expected at most %d in one call.", n, maxEntriesPerCall)
	}
	entries := slices.Clone(l.AclEntrys)
	for _, item := range req.AclEntrys {
		text := item.Entry
		if !strings.Contains(text, "/") {
			text += "/32"
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() || p != p.Masked() {
			return invalid("AclEntrys.entry", item.Entry, "an IPv4 address or network such as 192.168.0.0/24")
		}
		entries = change(entries, AclEntry{p, item.Comment})
	}
	if most := s.options.Limits.EntriesPerAccessControlList; len(entries) > most {
		return badRequest("AclEntryNumberOverLimit", "Access control list %s would have %d entries, at most %d are allowed.", l.AclId, len(entries), most)
	}
	if l.AclEntrys = entries; len(entries) == 0 {
		l.AclEntrys = nil
	}
	s.changed(l.AclId)
	return nil
}

// accessList returns the clients of a listener for a data plane.
func (s *State) accessList(l *Listener) *AccessList {
	if l.AclStatus != On {
		return nil
	}
	entries := s.data.AccessControlLists[l.AclId].AclEntrys
	if len(entries) == 0 {
		return nil
	}
	list := &AccessList{Allow: l.AclType == AclWhite}
	for _, e := range entries {
		list.CIDRs = append(list.CIDRs, e.AclEntryIP)
	}
	return list
}

// setAccess sets the access control of a listener.
func (s *State) setAccess(p *settings, c *ListenerConfig, req *ListenerSettingsRequest) {
	p.word("AclStatus", &c.AclStatus, req.AclStatus, On, Off)
	if c.AclStatus != On {
		c.AclType, c.AclId = "", ""
		return
	}
	p.word("AclType", &c.AclType, req.AclType, AclWhite, AclBlack)
	if req.AclId != nil && *req.AclId != "" {
		c.AclId = *req.AclId
	}
	switch {
	case p.err != nil:
	case c.AclType == "":
		p.err = missing("AclType")
	default:
		_, p.err = s.acl(c.AclId)
	}
}
