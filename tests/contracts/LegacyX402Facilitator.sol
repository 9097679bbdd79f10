// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

interface ITokenWithAuthorization is IERC20 {
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}

/// @title LegacyX402Facilitator
/// @notice Stands for deployments that came before this project: the same calls, errors and events,
/// three constructor arguments, and a network name that is always "jeju". The service has to settle
/// against it unchanged. Written without the parts that X402Facilitator is made of, so that one
/// mistake cannot hide in both.
contract LegacyX402Facilitator is Ownable, ReentrancyGuard, EIP712 {
    struct Payment {
        address payer;
        address recipient;
        address token;
        uint256 amount;
        string resource;
        string nonce;
        uint256 timestamp;
    }

    uint256 public constant MAX_PAYMENT_AGE = 300;
    bytes32 public constant PAYMENT_TYPEHASH = keccak256(
        "Payment(string scheme,string network,address asset,address payTo,uint256 amount,string resource,string nonce,uint256 timestamp)"
    );

    uint256 public protocolFeeBps = 50;
    address public feeRecipient;
    uint256 public totalSettlements;
    uint256 public totalVolumeUSD;
    mapping(address token => bool) public supportedTokens;
    mapping(address token => uint8) public tokenDecimals;
    mapping(address service => bool) public authorizedServices;
    mapping(bytes32 key => bool) public usedNonces;

    event PaymentSettled(
        bytes32 indexed paymentId,
        address indexed payer,
        address indexed recipient,
        address token,
        uint256 amount,
        uint256 protocolFee,
        string resource,
        uint256 timestamp
    );
    event ServiceAuthorized(address indexed service, bool authorized);
    event TokenSupported(address indexed token, bool supported);
    event ProtocolFeeUpdated(uint256 oldFee, uint256 newFee);
    event FeeRecipientUpdated(address oldRecipient, address newRecipient);

    error InvalidSignature();
    error PaymentExpired();
    error NonceAlreadyUsed();
    error UnsupportedToken();
    error InvalidAmount();
    error InvalidRecipient();
    error TransferFailed();

    constructor(address initialOwner, address initialFeeRecipient, address[] memory initialTokens)
        Ownable(initialOwner)
        EIP712("x402 Payment Protocol", "1")
    {
        if (initialFeeRecipient == address(0)) revert InvalidRecipient();
        feeRecipient = initialFeeRecipient;
        for (uint256 i = 0; i < initialTokens.length; i++) {
            supportedTokens[initialTokens[i]] = true;
            emit TokenSupported(initialTokens[i], true);
        }
    }

    function settle(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        string memory resource,
        string memory nonce,
        uint256 timestamp,
        bytes memory signature
    ) external nonReentrant returns (bytes32) {
        Payment memory payment =
            Payment(payer, recipient, token, amount, resource, nonce, timestamp);
        check(payment, signature);
        uint256 fee = amount * protocolFeeBps / 10000;
        if (!IERC20(token).transferFrom(payer, recipient, amount - fee)) revert TransferFailed();
        if (fee > 0 && !IERC20(token).transferFrom(payer, feeRecipient, fee)) {
            revert TransferFailed();
        }
        return finish(payment, fee);
    }

    function settleWithAuthorization(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        string memory resource,
        string memory nonce,
        uint256 timestamp,
        bytes memory paymentSignature,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 authNonce,
        bytes memory authSignature
    ) external nonReentrant returns (bytes32) {
        Payment memory payment =
            Payment(payer, recipient, token, amount, resource, nonce, timestamp);
        check(payment, paymentSignature);
        ITokenWithAuthorization(token).transferWithAuthorization(
            payer, address(this), amount, validAfter, validBefore, authNonce, authSignature
        );
        uint256 fee = amount * protocolFeeBps / 10000;
        if (!IERC20(token).transfer(recipient, amount - fee)) revert TransferFailed();
        if (fee > 0 && !IERC20(token).transfer(feeRecipient, fee)) revert TransferFailed();
        return finish(payment, fee);
    }

    function setTokenSupported(address token, bool supported) external onlyOwner {
        supportedTokens[token] = supported;
        emit TokenSupported(token, supported);
    }

    function setTokenDecimals(address token, uint8 decimals) external onlyOwner {
        tokenDecimals[token] = decimals;
    }

    function setAuthorizedService(address service, bool authorized) external onlyOwner {
        authorizedServices[service] = authorized;
        emit ServiceAuthorized(service, authorized);
    }

    function setProtocolFee(uint256 newFeeBps) external onlyOwner {
        if (newFeeBps > 1000) revert InvalidAmount();
        emit ProtocolFeeUpdated(protocolFeeBps, newFeeBps);
        protocolFeeBps = newFeeBps;
    }

    function setFeeRecipient(address newRecipient) external onlyOwner {
        if (newRecipient == address(0)) revert InvalidRecipient();
        emit FeeRecipientUpdated(feeRecipient, newRecipient);
        feeRecipient = newRecipient;
    }

    function recoverTokens(address token, uint256 amount) external onlyOwner {
        if (!IERC20(token).transfer(owner(), amount)) revert TransferFailed();
    }

    function isNonceUsed(address payer, string memory nonce) external view returns (bool) {
        return usedNonces[keccak256(abi.encodePacked(payer, nonce))];
    }

    function getStats()
        external
        view
        returns (uint256 settlements, uint256 volumeUSD, uint256 feeBps, address feeAddr)
    {
        return (totalSettlements, totalVolumeUSD, protocolFeeBps, feeRecipient);
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function hashPayment(
        address token,
        address recipient,
        uint256 amount,
        string memory resource,
        string memory nonce,
        uint256 timestamp
    ) external view returns (bytes32) {
        return digestOf(
            Payment(address(0), recipient, token, amount, resource, nonce, timestamp), "exact"
        );
    }

    function check(Payment memory payment, bytes memory signature) private {
        if (payment.amount == 0) revert InvalidAmount();
        if (payment.recipient == address(0)) revert InvalidRecipient();
        if (!supportedTokens[payment.token]) revert UnsupportedToken();
        if (block.timestamp > payment.timestamp + MAX_PAYMENT_AGE) revert PaymentExpired();
        bytes32 key = keccak256(abi.encodePacked(payment.payer, payment.nonce));
        if (usedNonces[key]) revert NonceAlreadyUsed();
        (address exact,,) = ECDSA.tryRecover(digestOf(payment, "exact"), signature);
        (address upto,,) = ECDSA.tryRecover(digestOf(payment, "upto"), signature);
        bool signed = exact == payment.payer || upto == payment.payer;
        if (payment.payer == address(0) || !signed) revert InvalidSignature();
        usedNonces[key] = true;
    }

    function finish(Payment memory payment, uint256 fee) private returns (bytes32 paymentId) {
        uint256 decimals = tokenDecimals[payment.token];
        if (decimals == 0) decimals = 6;
        totalSettlements++;
        totalVolumeUSD += payment.amount * 10 ** 18 / 10 ** decimals;
        paymentId = keccak256(
            abi.encodePacked(payment.payer, payment.recipient, payment.nonce, block.timestamp)
        );
        emit PaymentSettled(
            paymentId,
            payment.payer,
            payment.recipient,
            payment.token,
            payment.amount,
            fee,
            payment.resource,
            block.timestamp
        );
    }

    function digestOf(Payment memory payment, string memory scheme)
        private
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    PAYMENT_TYPEHASH,
                    keccak256(bytes(scheme)),
                    keccak256("jeju"),
                    payment.token,
                    payment.recipient,
                    payment.amount,
                    keccak256(bytes(payment.resource)),
                    keccak256(bytes(payment.nonce)),
                    payment.timestamp
                )
            )
        );
    }
}
