// SPDX-License-Identifier: GPL-2.0-only
/* Wrappers declared in shim.h, in the same order. Nothing here decides anything. */

#include "shim.h"

int weft_pipe_room(const struct pipe_inode_info *pipe)
{
	if (!pipe->readers)
		return -EPIPE;
	return !pipe_is_full(pipe);
}

void weft_get_page(struct page *page)
{
	get_page(page);
}

void weft_put_page(struct page *page)
{
	put_page(page);
}

void *weft_nla_data(const struct nlattr *attribute)
{
	return nla_data(attribute);
}

int weft_nla_len(const struct nlattr *attribute)
{
	return nla_len(attribute);
}

struct sk_buff *weft_genlmsg_new(size_t payload, gfp_t flags)
{
	return genlmsg_new(payload, flags);
}

void weft_genlmsg_end(struct sk_buff *skb, void *header)
{
	genlmsg_end(skb, header);
}

void weft_genlmsg_cancel(struct sk_buff *skb, void *header)
{
	genlmsg_cancel(skb, header);
}

int weft_genlmsg_unicast(struct net *net, struct sk_buff *skb, u32 portid)
{
	return genlmsg_unicast(net, skb, portid);
}

void weft_kfree_skb(struct sk_buff *skb)
{
	kfree_skb(skb);
}

const struct genl_info *weft_genl_info_dump(struct netlink_callback *callback)
{
	return genl_info_dump(callback);
}

struct net *weft_genl_get_net(const struct genl_info *info)
{
	return get_net(genl_info_net(info));
}

void weft_put_net(struct net *net)
{
	put_net(net);
}
