/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel interfaces that Rust cannot reach by itself: inline functions and
 * macros, wrapped in shim.c as weft_*(), and constants as WEFT_*.
 *
 * bindgen reads this file (options in shim.bindgen).
 */
#ifndef WEFT_SHIM_H
#define WEFT_SHIM_H

/* First: see rust/bindings/bindings_helper.h of the kernel. */
#include <linux/hrtimer_types.h>

#include <linux/anon_inodes.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/crc32c.h>
#include <linux/eventpoll.h>
#include <linux/mm.h>
#include <linux/pipe_fs_i.h>
#include <linux/splice.h>
#include <net/genetlink.h>

/* Checksums */

/* Files: what they are ready for */

static const __poll_t WEFT_EPOLLIN = EPOLLIN;
static const __poll_t WEFT_EPOLLOUT = EPOLLOUT;
static const __poll_t WEFT_EPOLLHUP = EPOLLHUP;

/* Pipes */

/* 1: takes another buffer, 0: full, -EPIPE: nobody reads. The pipe is locked. */
int weft_pipe_room(const struct pipe_inode_info *pipe);
void weft_get_page(struct page *page);
void weft_put_page(struct page *page);

/* Generic netlink */

static const gfp_t WEFT_GFP_NOIO = GFP_NOIO;

void *weft_nla_data(const struct nlattr *attribute);
int weft_nla_len(const struct nlattr *attribute);
struct sk_buff *weft_genlmsg_new(size_t payload, gfp_t flags);
void weft_genlmsg_end(struct sk_buff *skb, void *header);
void weft_genlmsg_cancel(struct sk_buff *skb, void *header);
int weft_genlmsg_unicast(struct net *net, struct sk_buff *skb, u32 portid);
void weft_kfree_skb(struct sk_buff *skb);
const struct genl_info *weft_genl_info_dump(struct netlink_callback *callback);
/* Counted; for weft_put_net(). */
struct net *weft_genl_get_net(const struct genl_info *info);
void weft_put_net(struct net *net);

#endif /* WEFT_SHIM_H */
