// SPDX-License-Identifier: GPL-2.0-only
/* Wrappers declared in shim.h, in the same order. Nothing here decides anything. */

#include "shim.h"

/* Memory */

unsigned int weft_memalloc_begin(unsigned int flag)
{
	return memalloc_flags_save(flag);
}

void weft_memalloc_end(unsigned int flags)
{
	memalloc_flags_restore(flags);
}

bool weft_page_is_shared(struct page *page)
{
	return page_ref_count(page) > 1;
}

void weft_put_page(struct page *page)
{
	put_page(page);
}

void *weft_page_address(struct page *page)
{
	return page_address(page);
}

void weft_sha256_pages(struct page *const *pages, size_t bytes, u8 *digest)
{
	struct sha256_ctx context;

	sha256_init(&context);
	for (; bytes > 0; pages++) {
		size_t length = min(bytes, PAGE_SIZE);

		sha256_update(&context, page_address(*pages), length);
		bytes -= length;
	}
	sha256_final(&context, digest);
}

bool weft_pages_are_zero(struct page *const *pages, size_t bytes)
{
	for (; bytes > 0; pages++) {
		size_t length = min(bytes, PAGE_SIZE);

		if (memchr_inv(page_address(*pages), 0, length))
			return false;
		bytes -= length;
	}
	return true;
}

/* Tasks */

unsigned long weft_running_task(void)
{
	return in_task() ? (unsigned long)current : 0;
}

/* Block devices */

void weft_wait_for_zero(int *counter)
{
	wait_var_event(counter, READ_ONCE(*counter) == 0);
}

void weft_wake_waiter(int *counter)
{
	wake_up_var(counter);
}

static void copy_bio(struct bio *bio, struct page *const *pages, bool out)
{
	struct bvec_iter iter;
	struct bio_vec segment;
	size_t at = 0;

	bio_for_each_segment(segment, bio, iter) {
		char *data = bvec_kmap_local(&segment);
		size_t done = 0;

		while (done < segment.bv_len) {
			size_t length = min(segment.bv_len - done, PAGE_SIZE - offset_in_page(at));
			char *page = page_address(pages[at / PAGE_SIZE]) + offset_in_page(at);

			if (out)
				memcpy(page, data + done, length);
			else
				memcpy(data + done, page, length);
			done += length;
			at += length;
		}
		if (!out)
			flush_dcache_page(segment.bv_page);
		kunmap_local(data);
	}
}

void weft_bio_copy_out(struct bio *from, struct page *const *to)
{
	copy_bio(from, to, true);
}

void weft_bio_copy_in(struct bio *to, struct page *const *from)
{
	copy_bio(to, from, false);
}

void weft_bio_end_io_acct(struct bio *bio, unsigned long start)
{
	bio_end_io_acct(bio, start);
}

int weft_set_queue_limits(struct gendisk *disk, struct queue_limits *limits)
{
	queue_limits_start_update(disk->queue);
	return queue_limits_commit_update_frozen(disk->queue, limits);
}

sector_t weft_bdev_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

unsigned int weft_bdev_logical_block_bytes(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

unsigned int weft_bdev_discard_sectors(struct block_device *bdev)
{
	return bdev_max_discard_sectors(bdev);
}

unsigned int weft_bdev_write_zeroes_sectors(struct block_device *bdev)
{
	return bdev_write_zeroes_sectors(bdev);
}

bool weft_bdev_nowait(struct block_device *bdev)
{
	return bdev_nowait(bdev);
}

bool weft_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

/* Sockets */

struct socket *weft_socket_get(int descriptor)
{
	int error;
	struct socket *socket = sockfd_lookup(descriptor, &error);

	if (!socket)
		return ERR_PTR(error);
	if (!sk_is_tcp(socket->sk)) {
		sockfd_put(socket);
		return ERR_PTR(-EPROTOTYPE);
	}
	lock_sock(socket->sk);
	/* Who writes to a device may be in the middle of a send of its own, with the task's fragment. */
	socket->sk->sk_use_task_frag = false;
	/* What frees memory may have to pass here. */
	sk_set_memalloc(socket->sk);
	socket->sk->sk_allocation = GFP_NOIO | __GFP_MEMALLOC;
	release_sock(socket->sk);
	return socket;
}

void weft_socket_put(struct socket *socket)
{
	/* The socket stays what it is: packets that came by that may lie in its backlog. */
	static_branch_dec(&memalloc_socks_key);
	sockfd_put(socket);
}

int weft_socket_send(struct socket *socket, struct bio_vec *pieces,
		     unsigned int count, size_t bytes, bool more)
{
	struct msghdr message = {
		.msg_flags = MSG_SPLICE_PAGES | MSG_DONTWAIT | MSG_NOSIGNAL,
	};

	if (more)
		message.msg_flags |= MSG_MORE;
	iov_iter_bvec(&message.msg_iter, ITER_SOURCE, pieces, count, bytes);
	/* Not what the application may do counts that happens to write to a device. */
	scoped_with_kernel_creds()
		return sock_sendmsg(socket, &message);
}

int weft_socket_receive(struct socket *socket, struct kvec *places,
			unsigned int count, size_t bytes)
{
	struct msghdr message = { };

	scoped_with_kernel_creds()
		return kernel_recvmsg(socket, &message, places, count, bytes, MSG_DONTWAIT);
}

/* Generic netlink */

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
