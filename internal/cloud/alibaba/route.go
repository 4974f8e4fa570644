package alibaba

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/cloud"
)

// The API's maximum page sizes of DescribeRouteTableList and DescribeRouteEntryList.
const (
	maxTablePage = 50
	maxEntryPage = 100
)

// DescribeRouteTables implements cloud.RouteAPI.
func (c *Client) DescribeRouteTables(ctx context.Context, vpcID string) ([]cloud.RouteTable, error) {
	const action = "DescribeRouteTableList"
	if vpcID == "" {
		return nil, refuse(action, "no VPC id given")
	}
	var all []cloud.RouteTable
	for page := 1; ; page++ {
		rsp, err := call(ctx, c, vpc.CreateDescribeRouteTableListRequest, vpc.CreateDescribeRouteTableListResponse, func(r *vpc.DescribeRouteTableListRequest) {
			r.VpcId = vpcID
			r.PageNumber, r.PageSize = requests.NewInteger(page), requests.NewInteger(maxTablePage)
		})
		if err != nil {
			return nil, err
		}
		got := rsp.RouterTableList.RouterTableListType
		for _, t := range got {
			if t.RouteTableId == "" {
				return nil, badAnswer(action, "VPC %s has a route table without RouteTableId", vpcID)
			}
			if !slices.ContainsFunc(all, func(x cloud.RouteTable) bool { return x.ID == t.RouteTableId }) {
				all = append(all, cloud.RouteTable{ID: t.RouteTableId, VPCID: t.VpcId, System: t.RouteTableType == "System", VSwitchIDs: t.VSwitchIds.VSwitchId})
			}
		}
		if len(got) < maxTablePage || page*maxTablePage >= rsp.TotalCount {
			return all, nil
		}
	}
}

// DescribeRouteEntries implements cloud.RouteAPI.
func (c *Client) DescribeRouteEntries(ctx context.Context, tableID string) ([]cloud.RouteEntry, error) {
	const action = "DescribeRouteEntryList"
	if tableID == "" {
		return nil, refuse(action, "no route table id given")
	}
	var (
		all   []cloud.RouteEntry
		index = map[string]int{}
		token string
	)
	for {
		rsp, err := call(ctx, c, vpc.CreateDescribeRouteEntryListRequest, vpc.CreateDescribeRouteEntryListResponse, func(r *vpc.DescribeRouteEntryListRequest) {
			r.RouteTableId = tableID
			r.MaxResult, r.NextToken = requests.NewInteger(maxEntryPage), token
		})
		if err != nil {
			return nil, err
		}
		for _, e := range rsp.RouteEntrys.RouteEntry {
			entry, err := convertRouteEntry(tableID, e)
			if err != nil {
				return nil, badAnswer(action, "%v", err)
			}
			// If others create or delete entries in between, an entry can appear on two pages.
			if i, seen := index[entry.ID]; seen {
				all[i] = entry
				continue
			}
			index[entry.ID] = len(all)
			all = append(all, entry)
		}
		switch rsp.NextToken {
		case "":
			return all, nil
		case token:
			return nil, badAnswer(action, "the page after token %q has the same token", token)
		}
		token = rsp.NextToken
	}
}

func convertRouteEntry(tableID string, e vpc.RouteEntry) (cloud.RouteEntry, error) {
	entry := cloud.RouteEntry{
		ID: e.RouteEntryId, TableID: tableID, Name: e.RouteEntryName, Description: e.Description,
		Custom: e.Type == "Custom", Status: cloud.RouteStatus(e.Status),
	}
	if p, err := netip.ParsePrefix(e.DestinationCidrBlock); err == nil {
		entry.Destination = p.Masked()
	} else if a, err := netip.ParseAddr(e.DestinationCidrBlock); err == nil {
		entry.Destination = netip.PrefixFrom(a, a.BitLen())
	}
	for _, h := range e.NextHops.NextHop {
		entry.NextHops = append(entry.NextHops, cloud.NextHop{Type: h.NextHopType, ID: h.NextHopId})
	}
	if len(entry.NextHops) == 0 && e.InstanceId != "" {
		entry.NextHops = []cloud.NextHop{{Type: e.NextHopType, ID: e.InstanceId}}
	}
	switch {
	case entry.ID == "":
		return entry, fmt.Errorf("route table %s: entry for %q: RouteEntryId is empty", tableID, e.DestinationCidrBlock)
	case entry.Status == "":
		return entry, fmt.Errorf("route table %s: entry %s: Status is empty", tableID, entry.ID)
	}
	return entry, nil
}

// CreateRouteEntries implements cloud.RouteAPI. The action has no client token. A repeated call
// does no work twice, because a table has a destination only once; an entry that exists already
// is no failure.
func (c *Client) CreateRouteEntries(ctx context.Context, tableID string, entries []cloud.NewRouteEntry) ([]cloud.RouteFailure, error) {
	const action = "CreateRouteEntries"
	if err := checkRouteBatch(action, tableID, len(entries)); err != nil {
		return nil, err
	}
	items := make([]vpc.CreateRouteEntriesRouteEntries, len(entries))
	for i, e := range entries {
		if !e.Destination.Addr().Is4() || e.InstanceID == "" {
			return nil, refuse(action, "entry %d: destination %s to instance %q; want an IPv4 range and an instance id", i+1, e.Destination, e.InstanceID)
		}
		items[i] = vpc.CreateRouteEntriesRouteEntries{
			RouteTableId: tableID, DstCidrBlock: e.Destination.String(), NextHop: e.InstanceID, NextHopType: cloud.NextHopInstance, Name: e.Name,
			// The API has the parameter in both spellings, and which one it reads has changed.
			Description: e.Description, Describption: e.Description,
		}
	}
	rsp, err := call(ctx, c, vpc.CreateCreateRouteEntriesRequest, vpc.CreateCreateRouteEntriesResponse, func(r *vpc.CreateRouteEntriesRequest) {
		r.RouteEntries = &items
	})
	if err != nil {
		return nil, err
	}
	failures, err := routeFailures(action, rsp.RequestId, rsp.FailedCount, rsp.FailedRouteEntries, func(f vpc.FailedRouteEntriesItem) (netip.Prefix, bool) {
		i := slices.IndexFunc(items, func(x vpc.CreateRouteEntriesRouteEntries) bool { return x.DstCidrBlock == f.DstCidrBlock })
		if i < 0 {
			return netip.Prefix{}, false
		}
		return entries[i].Destination, true
	})
	if err != nil || !slices.ContainsFunc(failures, routeExists) {
		return failures, err
	}
	there, look := c.DescribeRouteEntries(ctx, tableID)
	if look != nil {
		return failures, nil
	}
	return slices.DeleteFunc(failures, func(f cloud.RouteFailure) bool {
		return routeExists(f) && slices.ContainsFunc(entries, func(want cloud.NewRouteEntry) bool {
			return want.Destination == f.Destination && slices.ContainsFunc(there, func(e cloud.RouteEntry) bool {
				return e.Destination == want.Destination && e.Custom && e.Name == want.Name && e.Status != cloud.RouteDeleting &&
					slices.Equal(e.NextHops, []cloud.NextHop{{Type: cloud.NextHopInstance, ID: want.InstanceID}})
			})
		})
	}), nil
}

func routeExists(f cloud.RouteFailure) bool { return cloud.Explain(f.Err).Reason == "RouteExists" }

// DeleteRouteEntries implements cloud.RouteAPI.
func (c *Client) DeleteRouteEntries(ctx context.Context, tableID string, entries []cloud.RouteEntry) ([]cloud.RouteFailure, error) {
	const action = "DeleteRouteEntries"
	if err := checkRouteBatch(action, tableID, len(entries)); err != nil {
		return nil, err
	}
	items := make([]vpc.DeleteRouteEntriesRouteEntries, len(entries))
	for i, e := range entries {
		if e.ID == "" || !e.Destination.IsValid() || e.TableID != tableID {
			return nil, refuse(action, "entry %d (%q for %s of table %q): want an entry of table %s as the cloud described it", i+1, e.ID, e.Destination, e.TableID, tableID)
		}
		// The id alone identifies the entry; its other fields are sent too.
		items[i] = vpc.DeleteRouteEntriesRouteEntries{RouteTableId: tableID, RouteEntryId: e.ID, DstCidrBlock: e.Destination.String()}
		if len(e.NextHops) == 1 {
			items[i].NextHop = e.NextHops[0].ID
		}
	}
	rsp, err := call(ctx, c, vpc.CreateDeleteRouteEntriesRequest, vpc.CreateDeleteRouteEntriesResponse, func(r *vpc.DeleteRouteEntriesRequest) {
		r.RouteEntries = &items
	})
	switch {
	case err != nil && len(entries) == 1 && routeGone(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	failures, err := routeFailures(action, rsp.RequestId, rsp.FailedCount, rsp.FailedRouteEntries, func(f vpc.FailedRouteEntriesItem) (netip.Prefix, bool) {
		i := slices.IndexFunc(items, func(x vpc.DeleteRouteEntriesRouteEntries) bool {
			return x.RouteEntryId == f.RouteEntryId || f.RouteEntryId == "" && x.DstCidrBlock == f.DstCidrBlock
		})
		if i < 0 {
			return netip.Prefix{}, false
		}
		return entries[i].Destination, true
	})
	return slices.DeleteFunc(failures, func(f cloud.RouteFailure) bool { return routeGone(f.Err) }), err
}

// routeGone reports whether the cloud says that the entry does not exist.
func routeGone(err error) bool {
	code := cloud.CodeOf(err)
	return code == "InvalidRouteEntry.NotFound" || code == "InvalidRouteEntryId.NotFound"
}

func checkRouteBatch(action, tableID string, n int) error {
	switch {
	case tableID == "":
		return refuse(action, "no route table id given")
	case n < 1 || n > cloud.MaxRouteEntriesPerCall:
		return refuse(action, "%d entries; one call takes 1 to %d", n, cloud.MaxRouteEntriesPerCall)
	}
	return nil
}

// routeFailures reads the failed entries in an answer.
func routeFailures(action, requestID string, count int, failed []vpc.FailedRouteEntriesItem, find func(vpc.FailedRouteEntriesItem) (netip.Prefix, bool)) ([]cloud.RouteFailure, error) {
	if count != len(failed) {
		return nil, badAnswer(action, "FailedCount is %d, FailedRouteEntries has %d", count, len(failed))
	}
	var all []cloud.RouteFailure
	for _, f := range failed {
		p, ok := find(f)
		if !ok {
			return nil, badAnswer(action, "FailedRouteEntries: %q (%q) was not asked for", f.DstCidrBlock, f.RouteEntryId)
		}
		all = append(all, cloud.RouteFailure{Destination: p, Err: &cloud.Error{Action: action, Code: f.FailedCode,
			Class: cloud.Classify(f.FailedCode, 0), RequestID: requestID, Message: cleanMessage(f.FailedMessage)}})
	}
	return all, nil
}
